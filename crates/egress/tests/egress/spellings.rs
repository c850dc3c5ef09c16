//! Whatever its spelling, a refused address is never accepted: random addresses in every form that some reader takes
//! for one, and damaged URLs read once more by a reader that is as lenient as the C library.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use neo_events_egress::{RefusalReason, Scheme, Target, TargetPolicy};

#[path = "../../../domain/tests/fuzz/campaign.rs"]
mod campaign;

use campaign::{Corpus, Random, campaign};

fn profiles() -> [TargetPolicy; 3] {
    [TargetPolicy::development(), TargetPolicy::staging(), TargetPolicy::production()]
}

/// Nobody's webhook receivers: first address and prefix length, from the IANA registries and what clouds document.
const INWARD_V4: [([u8; 4], u32); 19] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([168, 63, 129, 16], 32),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 52, 193, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([192, 175, 48, 0], 24),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

fn is_inward(address: Ipv4Addr) -> bool {
    let shares = |(block, bits): &([u8; 4], u32)| {
        (address.to_bits() ^ u32::from_be_bytes(*block)).checked_shr(32 - bits).unwrap_or(0) == 0
    };
    INWARD_V4.iter().any(shares)
}

/// An address that is refused outside of `development`, often the most wanted ones.
fn inward(random: &mut Random) -> Ipv4Addr {
    let wanted = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "100.100.100.200", "168.63.129.16"];
    if random.below(2) == 0 {
        return random.pick(&wanted).parse().expect("an address");
    }
    let (block, bits) = INWARD_V4[random.below(INWARD_V4.len())];
    let host = u32::try_from(random.next() >> 32).expect("32 bits").checked_shr(bits).unwrap_or(0);
    Ipv4Addr::from_bits(u32::from_be_bytes(block) | host)
}

/// A number as somebody might write it.
fn number(value: u32, random: &mut Random) -> String {
    let zeros = "0".repeat(random.below(4));
    match random.below(6) {
        0 => format!("0x{zeros}{value:x}"),
        1 => format!("0X{zeros}{value:X}"),
        2 => format!("0{zeros}{value:o}"),
        3 => format!("{zeros}{value}"),
        _ => value.to_string(),
    }
}

/// As `inet_aton` reads it: one to four numbers, of which the last fills what the others leave.
fn spelt_v4(address: Ipv4Addr, random: &mut Random) -> String {
    let bits = address.to_bits();
    let parts = 1 + random.below(4);
    let mut text: Vec<String> =
        (0..parts - 1).map(|index| number(u32::from(address.octets()[index]), random)).collect();
    let rest = bits.checked_shl(8 * u32::try_from(parts - 1).expect("small")).unwrap_or(0);
    let rest = rest.checked_shr(8 * u32::try_from(parts - 1).expect("small")).unwrap_or(0);
    text.push(number(rest, random));
    let dot = random.pick(&[".", ".", ".", ".", "。", "．", "｡", "%2e"]);
    let spelt = text.join(dot);
    let is_wide = random.below(6) == 0;
    let widened = spelt.chars().map(|c| match c {
        '0'..='9' if is_wide => {
            char::from_u32(u32::from(c) - u32::from('0') + u32::from('０')).expect("a digit")
        }
        c => c,
    });
    widened.collect()
}

/// An IPv6 address that leads to an IPv4 address, or would by a tunnel or a translator, in one of its spellings.
fn spelt_v6(address: Ipv4Addr, random: &mut Random) -> String {
    let bits = u128::from(address.to_bits());
    let carrier: u128 = match random.below(8) {
        0..=2 => 0xffff << 32 | bits,
        3 => bits,
        4 => 0x0064_ff9b << 96 | bits,
        5 => 0x2002 << 112 | bits << 80,
        6 => 0x2001 << 112 | (bits ^ 0xffff_ffff),
        _ => 0xffff << 48 | bits,
    };
    let address = Ipv6Addr::from_bits(carrier);
    let groups = address.segments();
    let text = match random.below(4) {
        0 => address.to_string(),
        1 => groups.map(|group| format!("{group:x}")).join(":"),
        2 => groups.map(|group| format!("{group:04X}")).join(":"),
        _ => {
            let head = groups[..6].iter().map(|group| format!("{group:x}")).collect::<Vec<_>>().join(":");
            let [.., a, b, c, d] = address.octets();
            format!("{head}:{a}.{b}.{c}.{d}")
        }
    };
    let zone = random.pick(&["", "", "", "%25eth0", "%eth0"]);
    format!("[{text}{zone}]")
}

#[test]
fn a_refused_address_is_refused_in_every_spelling() {
    campaign("spellings", 10_000, |random| {
        let address = inward(random);
        let host = if random.below(2) == 0 { spelt_v4(address, random) } else { spelt_v6(address, random) };
        let scheme = random.pick(&["http", "https", "HTTPS", "hTTp"]);
        let userinfo = random.pick(&["", "", "", "", "example.com@", "a:b@"]);
        let end = random.pick(&["", ".", ":80", ":443", ":8080", ".:8080", ""]);
        let path = random.pick(&["", "/", "/@example.com", "?@example.com", "#@example.com", "/a?b#c"]);
        let url = format!("{scheme}://{userinfo}{host}{end}{path}");
        for policy in [TargetPolicy::staging(), TargetPolicy::production()] {
            let judged = policy.judge_url(&url);
            assert!(judged.is_err(), "{url:?} ({address}) was accepted as {judged:?}");
            let opened = policy.with_nat64(true).judge_url(&url);
            assert!(opened.is_err(), "{url:?} ({address}) was accepted with NAT64 as {opened:?}");
        }
        let is_open_in_development = address.is_loopback() || address.is_private() || is_shared(address);
        let judged = TargetPolicy::development().judge_url(&url);
        assert!(is_open_in_development || judged.is_err(), "{url:?} ({address}) was accepted as {judged:?}");
        judged.is_ok()
    });
}

/// Carrier-grade NAT, without the metadata service inside it.
fn is_shared(address: Ipv4Addr) -> bool {
    (address.to_bits() ^ 0x6440_0000) >> 22 == 0 && address != Ipv4Addr::new(100, 100, 100, 200)
}

/// The host of a URL as a lenient reader finds it: behind the first slashes and the last `@`.
fn lenient_host(url: &str) -> &str {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest).trim_start_matches(['/', '\\']);
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// As the C library reads numbers and dots.
fn inet_aton(host: &str) -> Option<Ipv4Addr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let read = |part: &str| {
        let lower = part.to_ascii_lowercase();
        match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(""), _) => Some(0),
            (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
            (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
            _ => lower.parse().ok(),
        }
    };
    let parts: Vec<u64> = host.split('.').map(read).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    let fits =
        parts.len() <= 4 && first.iter().all(|part| *part < 256) && *last < 1 << (32 - 8 * first.len());
    let head = first.iter().enumerate().map(|(index, part)| part << (24 - 8 * index)).sum::<u64>();
    if fits { u32::try_from(head | last).ok().map(Ipv4Addr::from_bits) } else { None }
}

#[test]
fn no_reader_of_an_accepted_url_finds_an_inward_address_in_it() {
    let corpus = Corpus::of(include_str!("../corpus/targets.txt"));
    for line in corpus.lines() {
        assert!(TargetPolicy::staging().judge_url(line).is_ok(), "{line}");
    }
    campaign("targets", 10_000, |random| {
        let url = corpus.draw(random);
        let [development, staging, production] = profiles().map(|policy| policy.judge_url(&url));
        assert!(production.is_err() || staging.is_ok(), "{url:?}");
        assert!(staging.is_err() || development.is_ok(), "{url:?}");
        if let Ok(target) = &production {
            assert_eq!(target.scheme(), Scheme::Https, "{url:?}");
        }
        match &staging {
            Ok(target) => check_public(&url, target),
            Err(refused) => {
                assert!(refused.to_string().len() < 100 && refused.code() == "target_not_allowed");
                let is_too_long = refused.reason() == RefusalReason::UrlTooLong;
                assert!(is_too_long || url.len() <= 2048, "{url:?}");
                // As it is sent, a character may take up to twelve bytes.
                assert!(!is_too_long || url.len() * 12 > 2048, "{url:?}");
            }
        }
        staging.is_ok()
    });
}

fn check_public(url: &str, target: &Target) {
    for text in [url, target.as_str()] {
        let host = lenient_host(text);
        let address = host.parse().ok().or(inet_aton(host).map(IpAddr::V4));
        let canonical = address.map(|address: IpAddr| address.to_canonical());
        assert_eq!(canonical, target.address(), "{url:?} is read in two ways");
        assert!(!matches!(canonical, Some(IpAddr::V4(v4)) if is_inward(v4)), "{url:?}");
    }
    assert!(matches!(target.port(), 80 | 443 | 1024..), "{url:?}");
    let host = target.host().to_ascii_lowercase();
    let is_inside = ["localhost", "local", "internal", "localdomain", "svc"]
        .iter()
        .any(|name| host == *name || host.ends_with(&format!(".{name}")));
    assert!(!is_inside && target.as_str().is_ascii(), "{url:?} is {target:?}");
    assert!(!target.as_str().contains(['@', '\\', ' ', '\r', '\n']) || target.path_and_query().contains('@'));
}
