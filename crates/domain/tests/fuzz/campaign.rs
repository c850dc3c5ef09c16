//! What strangers may send: texts that begin as valid ones and were then damaged, by the thousand.
//!
//! A case draws from a corpus (`corpus/*.txt`, a valid input a line) and edits what it drew, token by token, so that
//! most of it still gets past the first check. Everything follows from the case's seed, which is printed when the case
//! fails. `NEO_EVENTS_SEED` repeats that one case; `NEO_EVENTS_CASES` says how many to try instead of a few thousand:
//!
//! ```sh
//! NEO_EVENTS_CASES=5000000 cargo test --release -p neo-events-domain --test fuzz
//! ```

use std::hash::{BuildHasher, RandomState};

#[path = "../filter_random/random.rs"]
mod random;

pub(crate) use random::Random;

/// What parsers stumble over, wherever it comes from.
const ODDITIES: [&str; 58] = [
    "\0",
    "\t",
    "\n",
    "\r\n",
    "\r\nx-injected: 1",
    "\x1b[31m",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{ad}",
    "\u{200b}",
    "\u{202e}",
    "\u{2028}",
    "\u{3000}",
    "\u{feff}",
    " ",
    "  ",
    "%",
    "%00",
    "%0d%0a",
    "%2e",
    "\\",
    "\"",
    "'",
    "`",
    "--",
    "../",
    "/",
    "//",
    "$",
    "$$",
    "~1",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "1e999999999",
    "-0",
    "0.1e-1",
    "18446744073709551616",
    "-9223372036854775809",
    "NaN",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    ".",
    "..",
    "*",
    "@",
    "é",
    "😀",
    "\u{212a}",
    "１",
    "。",
];

/// Bytes beyond which an edited text no longer grows.
const TEXT_BYTES_MAX: usize = 24 * 1024;

/// Runs a case so many times unless somebody says otherwise, each with choices of its own. A case says whether its
/// input was accepted: where nearly all or nearly none are, they prove little.
pub(crate) fn campaign(name: &str, cases: u64, mut is_accepted: impl FnMut(&mut Random) -> bool) {
    let first = number("NEO_EVENTS_SEED");
    let usual = cases;
    let cases = if first.is_some() { 1 } else { number("NEO_EVENTS_CASES").unwrap_or(usual) };
    let first = first.unwrap_or_else(|| RandomState::new().hash_one(name));
    let mut accepted = 0;
    for seed in (0..cases).map(|index| first.wrapping_add(index)) {
        let _told = ToldIfItFails { name, seed };
        accepted += u64::from(is_accepted(&mut Random::new(seed)));
    }
    let is_telling = cases < usual || (cases / 100..=cases - cases / 100).contains(&accepted);
    assert!(is_telling, "{name}: {accepted} of {cases} accepted prove little");
}

#[expect(clippy::disallowed_methods, reason = "what a test run is told is no setting of the product")]
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

struct ToldIfItFails<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for ToldIfItFails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: NEO_EVENTS_SEED={} repeats this case", self.name, self.seed);
        }
    }
}

/// Valid inputs, and the pieces they are made of.
pub(crate) struct Corpus {
    lines: Vec<&'static str>,
    tokens: Vec<&'static str>,
}

impl Corpus {
    /// A text a line. Empty lines and those that begin with `# ` are nobody's.
    pub(crate) fn of(text: &'static str) -> Self {
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).collect();
        let mut all: Vec<_> = lines.iter().flat_map(|line| tokens(line)).collect();
        all.sort_unstable();
        all.dedup();
        Self { lines, tokens: all }
    }

    /// Each as it stands.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'static str> {
        self.lines.iter().copied()
    }

    /// One of them, now and then as it stands, mostly damaged.
    pub(crate) fn draw(&self, random: &mut Random) -> String {
        let mut text = random.pick(&self.lines).to_owned();
        for _ in 0..random.below(5) {
            text = self.edited(&text, random);
        }
        text
    }

    fn edited(&self, text: &str, random: &mut Random) -> String {
        let mut pieces: Vec<String> = tokens(text).map(str::to_owned).collect();
        if pieces.is_empty() {
            return random.pick(&self.tokens).to_owned();
        }
        let at = random.below(pieces.len());
        match random.below(12) {
            0 => drop(pieces.remove(at)),
            1 => pieces.insert(at, pieces[at].clone()),
            2 | 3 => random.pick(&self.tokens).clone_into(&mut pieces[at]),
            4 => pieces.insert(at, random.pick(&self.tokens).to_owned()),
            5 => pieces.insert(at, random.pick(&ODDITIES).to_owned()),
            6 => pieces[at] = edited_characters(&pieces[at], random),
            7 => {
                let other = random.below(pieces.len());
                pieces.swap(at, other);
            }
            8 => pieces.truncate(at),
            9 => {
                let other = random.pick(&self.lines);
                let from = random.below(tokens(other).count());
                pieces.truncate(at);
                pieces.extend(tokens(other).skip(from).map(str::to_owned));
            }
            10 => pieces[at] = random.next().to_string(),
            _ => {
                let times = if random.below(20) == 0 { 2000 } else { 2 + random.below(20) };
                let width = 1 + random.below(pieces.len() - at);
                let part = pieces[at..at + width].concat();
                let times = times.min(1 + TEXT_BYTES_MAX / part.len().max(1));
                pieces[at] = part.repeat(times);
            }
        }
        let mut text = pieces.concat();
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text
    }
}

/// Another case, or one character more, less or other.
fn edited_characters(piece: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = piece.chars().collect();
    let at = random.below(characters.len());
    let mut any = || char::from_u32(u32::try_from(random.next() % 0x11_0000).expect("21 bits"));
    match at % 3 {
        0 => characters[at] = any().unwrap_or('\u{fffd}'),
        1 => characters.insert(at, any().unwrap_or('x')),
        _ => characters.truncate(at),
    }
    let text: String = characters.into_iter().collect();
    if random.below(2) == 0 { text.to_uppercase() } else { text }
}

/// Words, and what stands between them character by character.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let end = if is_word(first) { rest.find(|c| !is_word(c)) } else { Some(first.len_utf8()) };
        let (token, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(token)
    })
}
