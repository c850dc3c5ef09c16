//! Which master key seals secrets, and whether it is the one that the data was written with.
//!
//! The database knows the fingerprint of the key that sealed when somebody started last. A start that does not have
//! that key is refused before anything is delivered, and where one is noted no key is ever made up. Another key in
//! front of it is how keys are changed: it is noted in its place.
//!
//! Data of earlier versions has no fingerprint. There it is noted at the first start at which a secret that is there
//! opened, or none is there. While nobody can say whether one is, because a tenant cannot be read, none is noted and no
//! key is made up.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use neo_events_domain::{endpoint::Profile, id::EndpointId, tenant::Schema};
use neo_events_engine::{Keyring, KeyringError, MasterKey, Sources};
use neo_events_store::{MasterKeyFingerprint, PageRequest, Store, StoreError};
use sha2::{Digest, Sha256};

use crate::StartError;

/// Tenants that are asked for a secret, the newest ones, where the key is known: to warn.
const TENANTS_ASKED: u32 = 10;
/// The same where no key is known, so that it becomes known. If there are more and none of these has a secret, the
/// question stays open.
const TENANTS_ASKED_FIRST: u32 = 100;
/// How often a fingerprint is noted before others who start at the same moment are taken to be at odds.
const NOTES_MAX: u32 = 10;
/// What is hashed before the key, so that its fingerprint is no other digest of it.
const FINGERPRINT_LABEL: &str = "neo-events master key fingerprint: ";

/// Where master keys come from.
pub(crate) struct KeySource {
    /// By whoever starts: the first seals.
    pub(crate) given: Vec<MasterKey>,
    pub(crate) profile: Profile,
    /// Where one is kept that was made up.
    pub(crate) file: Option<PathBuf>,
}

/// The keyring, with the key that the data was written with.
pub(crate) async fn keyring(
    store: &dyn Store,
    source: KeySource,
    sources: &Sources,
) -> Result<Keyring, StartError> {
    let noted = store.master_key().await?;
    let asked = if noted.is_none() { TENANTS_ASKED_FIRST } else { TENANTS_ASKED };
    let found = Found::of(store, asked).await?;
    let any_key_will_do = noted.is_none() && found.is_nothing();
    let random = sources.clone();
    let keys = tokio::task::spawn_blocking(move || source.keys(any_key_will_do, &random)).await;
    let keys = keys.map_err(|error| StoreError::Broken(error.into()))??;
    let keyring = Keyring::new(&keys, sources.clone())?;
    let ours: Vec<_> = keys.iter().map(fingerprint).collect();
    judge(noted, &ours)?;
    let is_opened = found.is_opened_by(&keyring, noted.is_some())?;
    if noted.is_some() || is_opened || found.is_nothing() {
        note(store, noted, &ours).await?;
    }
    Ok(keyring)
}

/// Refuses keys among which the one that was noted is not.
pub(crate) fn judge(
    noted: Option<MasterKeyFingerprint>,
    ours: &[MasterKeyFingerprint],
) -> Result<(), KeyringError> {
    let is_ours = noted.is_none_or(|noted| ours.contains(&noted));
    if is_ours { Ok(()) } else { Err(KeyringError::UnknownKey) }
}

/// Notes the key that seals, the first of ours.
async fn note(
    store: &dyn Store,
    mut noted: Option<MasterKeyFingerprint>,
    ours: &[MasterKeyFingerprint],
) -> Result<(), StartError> {
    let seals = *ours.first().ok_or(KeyringError::NoKey)?;
    for _ in 0..NOTES_MAX {
        judge(noted, ours)?;
        if noted == Some(seals) || store.note_master_key(noted, seals).await? {
            return Ok(());
        }
        // Somebody else started meanwhile.
        noted = store.master_key().await?;
    }
    Err(KeyringError::UnknownKey.into())
}

/// A key is 32 random bytes: nobody finds it by half of its digest.
pub(crate) fn fingerprint(key: &MasterKey) -> MasterKeyFingerprint {
    let digest: [u8; 32] = Sha256::digest(format!("{FINGERPRINT_LABEL}{}", key.reveal())).into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    MasterKeyFingerprint(half)
}

/// What there is to try keys on.
struct Found {
    /// The platform's newest secret, or if it has none that of one of the tenants.
    secret: Option<(Schema, EndpointId, Vec<u8>)>,
    /// Whether everybody was asked, and answered.
    is_all: bool,
}

impl Found {
    /// Asks the platform, then the newest tenants until one has a secret. A tenant that cannot be asked keeps nobody
    /// from starting: its trouble is its own.
    async fn of(store: &dyn Store, tenants: u32) -> Result<Self, StoreError> {
        let admin = Schema::admin();
        if let Some((id, sealed)) = store.any_sealed_secret(&admin).await? {
            return Ok(Self { secret: Some((admin, id, sealed)), is_all: false });
        }
        let newest = store.tenants(PageRequest::first(tenants)).await?;
        let mut is_all = newest.next.is_none();
        for schema in newest.items.into_iter().map(|tenant| tenant.schema).filter(|schema| *schema != admin) {
            match store.any_sealed_secret(&schema).await {
                Ok(None) => {}
                Ok(Some((id, sealed))) => {
                    return Ok(Self { secret: Some((schema, id, sealed)), is_all: false });
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%schema, error, "this tenant could not be asked for a secret; the others go on");
                    is_all = false;
                }
            }
        }
        Ok(Self { secret: None, is_all })
    }

    /// Whether it is certain that there is no secret.
    fn is_nothing(&self) -> bool {
        self.secret.is_none() && self.is_all
    }

    /// Whether there is a secret that opens. One that does not is an error: better not to start than to fail every
    /// delivery for want of its secret. But a tenant's that was damaged is its own trouble, and so is one that another
    /// key sealed where the right one is known: a file from a backup, perhaps.
    fn is_opened_by(&self, keyring: &Keyring, key_is_known: bool) -> Result<bool, KeyringError> {
        let Some((schema, endpoint_id, sealed)) = &self.secret else { return Ok(false) };
        match keyring.open(schema, *endpoint_id, sealed) {
            Ok(_) => Ok(true),
            Err(error)
                if *schema != Schema::admin() && (key_is_known || error == KeyringError::Unreadable) =>
            {
                tracing::warn!(%schema, %endpoint_id, %error, "this tenant's newest secret cannot be opened");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl KeySource {
    /// The keys. Where none was given, the one in the file, which is made if any key will do.
    fn keys(&self, any_key_will_do: bool, sources: &Sources) -> Result<Vec<MasterKey>, StartError> {
        if !self.given.is_empty() {
            return Ok(self.given.clone());
        }
        if self.profile != Profile::Development {
            return Err(StartError::MasterKeyMissing);
        }
        let path = self.file.as_deref().ok_or(StartError::MasterKeyMissing)?;
        let unusable = |source| StartError::KeyFile { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && any_key_will_do => {
                make_key_file(path, sources, |from, to| fs::hard_link(from, to)).map_err(unusable)?
            }
            text => text.map_err(unusable)?,
        };
        Ok(vec![MasterKey::parse(&text)?])
    }
}

/// Makes a key and its file, whole or not at all: a key cut short by a crash would make every secret unreadable.
/// Answers what is in the file: of several who make it at once, one has made it.
fn make_key_file(path: &Path, sources: &Sources, link: Link) -> io::Result<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let key = MasterKey::generate(sources).reveal();
    // A name of its own, so that nobody else's draft is taken for it. What a crash leaves has a key that nobody uses.
    let draft = path.with_extension(format!("key.{:032x}", u128::from_ne_bytes(sources.bytes())));
    write_new(&draft, &key)?;
    // Unlike a renaming, it leaves alone what is there.
    let linked = link(&draft, path);
    fs::remove_file(&draft)?;
    let made = match linked {
        Err(error) if has_no_links(&error) => write_new(path, &key),
        linked => linked,
    };
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => fs::File::open(folder)?.sync_all()?,
    }
    fs::read_to_string(path)
}

/// How a file gets a second name.
type Link = fn(&Path, &Path) -> io::Result<()>;

/// What is said where the file system has no links, as FAT and some that machines share have none.
fn has_no_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

/// Writes a file that must not be there yet; what cannot be written is not left cut short, but for a crash.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        fs::remove_file(path)?;
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Barrier, thread};

    use super::*;

    /// As nodes that share a database and a folder would, when they are started for the first time all at once.
    #[test]
    fn of_many_who_make_the_key_file_at_once_all_get_the_key_that_is_in_it() {
        const STARTS: usize = 20;
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data").join("master.key");
            let source =
                KeySource { given: Vec::new(), profile: Profile::Development, file: Some(path.clone()) };
            let (sources, barrier) = (Sources::system(), Barrier::new(STARTS));
            let start = || {
                barrier.wait();
                source.keys(true, &sources).unwrap()
            };
            let keys: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            let kept = MasterKey::parse(&fs::read_to_string(&path).unwrap()).unwrap();
            assert!(keys.iter().all(|keys| *keys == [kept.clone()]));
            let files = fs::read_dir(path.parent().unwrap()).unwrap();
            assert_eq!(files.count(), 1, "no draft is left");
        }
    }

    #[test]
    fn a_key_file_is_made_where_the_file_system_has_no_links() {
        const NO_LINKS: [Link; 2] = [
            |_, _| Err(io::ErrorKind::PermissionDenied.into()),
            |_, _| Err(io::ErrorKind::Unsupported.into()),
        ];
        let sources = Sources::system();
        for link in NO_LINKS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("master.key");
            let made = make_key_file(&path, &sources, link).unwrap();
            assert!(MasterKey::parse(&made).is_ok());
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let again = make_key_file(&path, &sources, link).unwrap();
            assert_eq!(again, made, "what is there is left alone");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        }
        let folder = tempfile::tempdir().unwrap();
        let full: Link = |_, _| Err(io::ErrorKind::StorageFull.into());
        assert!(make_key_file(&folder.path().join("master.key"), &sources, full).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no draft is left");
    }
}
