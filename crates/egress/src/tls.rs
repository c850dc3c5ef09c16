//! TLS for the client: bundled roots plus a CA file, `ring`, ALPN for HTTP/2 and HTTP/1.1.
//!
//! The crypto provider is passed along explicitly; a library must not install one for the whole process. There are
//! two configurations, so that a session made without checking certificates can never be resumed by one that checks.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::config::EgressError;

/// The two ways to begin a TLS session.
#[derive(Clone)]
pub(crate) struct TlsConnectors {
    verified: TlsConnector,
    unverified: TlsConnector,
}

impl TlsConnectors {
    pub(crate) fn try_new(ca_file_pem: Option<&[u8]>) -> Result<Self, EgressError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(ca_file_pem)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| EgressError::CaFile(Some(Box::new(error))))?;
        let unverifying = Arc::new(AcceptsAnyCertificate(provider.clone()));
        Ok(Self {
            verified: connector(provider.clone(), verifier)?,
            unverified: connector(provider, unverifying)?,
        })
    }

    pub(crate) fn get(&self, verify_tls: bool) -> &TlsConnector {
        if verify_tls { &self.verified } else { &self.unverified }
    }
}

fn roots(ca_file_pem: Option<&[u8]>) -> Result<RootCertStore, EgressError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(pem) = ca_file_pem else { return Ok(roots) };
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| EgressError::CaFile(Some(Box::new(error))))?;
        roots.add(certificate).map_err(|error| EgressError::CaFile(Some(Box::new(error))))?;
    }
    if roots.len() == before { Err(EgressError::CaFile(None)) } else { Ok(roots) }
}

fn connector(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<TlsConnector, EgressError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(EgressError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// For endpoints whose owner has switched verification off. The peer must still hold the key it presents.
#[derive(Debug)]
struct AcceptsAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptsAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
