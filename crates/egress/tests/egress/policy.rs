//! The target policy: what every profile refuses and accepts.

use std::net::IpAddr;

use neo_events_egress::{RefusalReason, Scheme, TargetPolicy};
use proptest::prelude::*;

fn profiles() -> [(&'static str, TargetPolicy); 3] {
    [
        ("development", TargetPolicy::development()),
        ("staging", TargetPolicy::staging()),
        ("production", TargetPolicy::production()),
    ]
}

fn hostile_urls() -> Vec<String> {
    let list: serde_json::Value =
        serde_json::from_str(include_str!("../data/hostile_targets.json")).expect("a JSON file");
    let urls = list.as_array().expect("a list").iter();
    urls.map(|case| case["url"].as_str().expect("a URL").to_owned()).collect()
}

fn check_refused(policy: &TargetPolicy, url: &str) {
    if let Ok(target) = policy.judge_url(url) {
        panic!("{url:?} was accepted as {target:?} by {policy:?}");
    }
}

fn check_reason(policy: &TargetPolicy, url: &str, expected: RefusalReason) {
    match policy.judge_url(url) {
        Ok(target) => panic!("{url:?} was accepted as {target:?}"),
        Err(refused) => assert_eq!(refused.reason(), expected, "{url:?}"),
    }
}

fn check_accepted(policy: &TargetPolicy, url: &str, normalised: &str) {
    match policy.judge_url(url) {
        Ok(target) => assert_eq!(target.to_string(), normalised, "{url:?}"),
        Err(refused) => panic!("{url:?} was refused: {:?}", refused.reason()),
    }
}

#[test]
fn the_hostile_list_is_refused() {
    let urls = hostile_urls();
    assert!(urls.len() > 70, "the list has been truncated");
    for url in urls {
        check_refused(&TargetPolicy::staging(), &url);
        check_refused(&TargetPolicy::production(), &url);
        // Production must not refuse them for the scheme alone.
        check_refused(&TargetPolicy::production(), &url.replacen("http:", "https:", 1));
    }
}

/// Refused under staging and production, with http and https alike.
const HOSTILE: &[&str] = &[
    // Loopback and its names.
    "http://127.0.0.1",
    "http://127.0.1/",
    "http://0x7f000001/",
    "http://0x7F.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.1.:8080/",
    "http://00000127.0.0.1/",
    "http://127.0.0.0x1/",
    "http://127.0.0.1:8080",
    "http://LOCALHOST/",
    "http://LocalHost.:8080/",
    "http://a.b.LocalHost/",
    "http://localhost.localdomain./",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://localhos\u{200b}t/",
    "http://１２７.0.0.1/",
    "http://127．0．0．1/",
    "http://①②⑦.0.0.1/",
    "http://127｡0｡0｡1/",
    "http://[::ffff:127.0.0.1]:8080/",
    "http://[::FFFF:7F00:1]/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]/",
    "http://0.0.0.0/",
    "http://0.0.0.0:8080/",
    "http://[::]/",
    "http://[::0.0.0.0]/",
    // Private, special.
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://172.16.0.0/",
    "http://172.20.1.1/",
    "http://192.168.0.0/",
    "http://192.168.255.255/",
    "http://100.64.0.0/",
    "http://100.100.100.200/",
    "http://192.0.0.8/",
    "http://192.0.0.170/",
    "http://192.0.2.1/",
    "http://192.31.196.1/",
    "http://192.52.193.1/",
    "http://192.175.48.1/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://198.51.100.7/",
    "http://203.0.113.7/",
    "http://239.255.255.250/",
    "http://233.252.0.1/",
    "http://250.1.2.3/",
    "http://169.254.0.1/",
    "http://0.1.2.3/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::ffff:168.63.129.16]/",
    "http://[::ffff:0:127.0.0.1]/",
    // IPv6.
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[fec0::1]/",
    "http://[fd00::1]/",
    "http://[fdff:ffff::1]/",
    "http://[ff01::1]/",
    "http://[ff0e::1]/",
    "http://[64:ff9b::8.8.8.8]/",
    "http://[64:ff9b:1::1]/",
    "http://[2001::1]/",
    "http://[2001:0:53aa:64c::1]/",
    "http://[2001:1::1]/",
    "http://[2001:3::1]/",
    "http://[2001:4:112::1]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[2001:1ff::1]/",
    "http://[2001:db8:ffff::1]/",
    "http://[2002::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2620:4f:8000::1]/",
    "http://[3fff:fff::1]/",
    "http://[4000::1]/",
    "http://[5f00::1]/",
    "http://[1fff::1]/",
    "http://[fd00:42::42]/",
    "http://[::ffff:1.2.3]/",
    "http://[v1.fe]/",
    "http://[::1",
    "http://::1/",
    "http://[]/",
    "http://[1.2.3.4]/",
    // Names of the inside.
    "http://intranet/",
    "http://intranet./",
    "http://printer.local/",
    "http://db.INTERNAL/",
    "http://db.internal./",
    "http://api.default.svc/",
    "http://kubernetes.default.svc.example.com/",
    "http://kubernetes.default.svc.cluster.local/",
    "http://kubernetes.default/",
    "http://metadata/",
    "http://metadata.goog/",
    "http://METADATA.google.internal./",
    "http://instance-data.ec2.internal/",
    "http://my_host.example.com/",
    "http://example/",
    "http://com./",
    // Forms.
    "",
    "http",
    "http:",
    "http:/",
    "http://",
    "http:///",
    "http:///example.com/",
    "http:/example.com/",
    "http:example.com/",
    "http://?x",
    "http://#x",
    "http://:80/",
    "http://@/",
    "http://@example.com/",
    "http://:@example.com/",
    "http://a@b@example.com/",
    "http://example.com@127.0.0.1/",
    "http://example.com:80:80/",
    "http://example.com:/",
    "http://example.com:+80/",
    "http://example.com:080/",
    "http://example.com:80a/",
    "http://example.com:-1/",
    "http://example.com:８０/",
    "http://example.com\\/",
    "http://example.com/\\x",
    "http://exa mple.com/",
    "http://example.com/a b",
    "http://example.com/\t",
    "\thttp://example.com/",
    "http://example.com/\n",
    "h\nttp://example.com/",
    "http://example.com/\u{a0}",
    "\u{feff}http://example.com/",
    "http://example.com\u{0}/",
    "http://example.com/\u{7f}",
    "http://ex%61mple.com/",
    "http://%31%32%37.0.0.1/",
    "http://example.com%2f@127.0.0.1/",
    "http://exa|mple.com/",
    "http://exa^mple.com/",
    "http://exa<mple.com/",
    "http://example.com／x/",
    "http://example.com＠127.0.0.1/",
    "http://-example.com/",
    "http://example-.com/",
    "http://example..com/",
    "http://example.com../",
    "http://./",
    "http://../",
    "http://example.1/",
    "http://example.0x7f/",
    "http://1.2.3/",
    "http://1.2.3.4.5.6/",
    "http://4294967296/",
    "http://09.1.1.1/",
    "http://1.2.3.04/",
    "http://1.2.3.4 /",
    "http://xn--a/",
    "http://example.xn--/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "about:blank",
    "example.com",
    "/example.com",
    "http+unix://%2fvar%2frun/",
    "wss://example.com/",
    "httpss://example.com/",
    "http ://example.com/",
    // Ports.
    "http://example.com:0/",
    "http://example.com:1/",
    "http://example.com:22/",
    "http://example.com:25/",
    "http://example.com:81/",
    "http://example.com:444/",
    "http://example.com:1023/",
    "http://example.com:65536/",
    "http://example.com:99999999999/",
];

#[test]
fn our_own_list_is_refused() {
    for url in HOSTILE {
        check_refused(&TargetPolicy::staging(), url);
        check_refused(&TargetPolicy::production(), url);
        check_refused(&TargetPolicy::production(), &url.replacen("http:", "https:", 1));
    }
}

#[test]
fn long_urls_and_names_are_refused() {
    let staging = TargetPolicy::staging();
    let of_length = |length: usize| format!("https://example.com/{}", "a".repeat(length - 20));
    assert!(staging.judge_url(&of_length(2048)).is_ok());
    check_reason(&staging, &of_length(2049), RefusalReason::UrlTooLong);
    // Short as given, long once it is encoded.
    check_reason(&staging, &format!("https://example.com/{}", "ä".repeat(900)), RefusalReason::UrlTooLong);
    let label = "a".repeat(63);
    assert!(staging.judge_url(&format!("https://{label}.example.com/")).is_ok());
    check_refused(&staging, &format!("https://{label}a.example.com/"));
    check_refused(&staging, &format!("https://{label}.{label}.{label}.{label}.com/"));
}

#[test]
fn refusals_name_their_reason() {
    use RefusalReason as R;
    let cases = [
        ("https://example.com/\r\nx", R::ForbiddenCharacter),
        ("https:\\\\example.com", R::ForbiddenCharacter),
        ("//example.com/", R::Malformed),
        ("https:/example.com/", R::Malformed),
        ("ftp://example.com/", R::Scheme),
        ("http://example.com/", R::Scheme),
        ("https://u@example.com/", R::Userinfo),
        ("https://example.com:22/", R::Port),
        ("https://example.com:0/", R::Port),
        ("https://localhost/", R::HostName),
        ("https://127.1/", R::NonCanonicalAddress),
        ("https://127.0.0.1/", R::Address),
        ("https://[::1]/", R::Address),
    ];
    for (url, reason) in cases {
        check_reason(&TargetPolicy::production(), url, reason);
    }
}

#[test]
fn refusals_of_names_and_addresses_read_the_same() {
    let mut texts: Vec<String> =
        ["https://localhost/", "https://127.1/", "https://10.0.0.1/", "https://a..b/"]
            .iter()
            .map(|url| TargetPolicy::production().judge_url(url).unwrap_err())
            .map(|refused| format!("{} {refused}", refused.code()))
            .collect();
    texts.dedup();
    assert_eq!(texts, ["target_not_allowed the target is not allowed"]);
}

#[test]
fn public_targets_are_accepted_and_normalised() {
    let cases = [
        ("https://example.com./", "https://example.com/"),
        ("https://EXAMPLE.com:443/ä?x=1", "https://example.com/%C3%A4?x=1"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://172.15.255.255/", "http://172.15.255.255/"),
        ("http://172.32.0.1/", "http://172.32.0.1/"),
        ("http://100.63.255.255/", "http://100.63.255.255/"),
        ("http://11.0.0.1/", "http://11.0.0.1/"),
        ("https://[2606:2800:220:1:248:1893:25c8:1946]/", "https://[2606:2800:220:1:248:1893:25c8:1946]/"),
        ("https://does-not-resolve.example/hook", "https://does-not-resolve.example/hook"),
        ("HTTPS://example.com", "https://example.com/"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com#frag", "https://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("https://example.com:1024/", "https://example.com:1024/"),
        ("https://example.com.:65535/a//b", "https://example.com:65535/a//b"),
        ("https://example.com//@x:y", "https://example.com//@x:y"),
        ("https://example.com/a%20b?q=%5C", "https://example.com/a%20b?q=%5C"),
        ("https://1.example.com/", "https://1.example.com/"),
        ("https://metadata.example.com/", "https://metadata.example.com/"),
        ("https://internal.example.com/", "https://internal.example.com/"),
        ("https://notlocalhost.com/", "https://notlocalhost.com/"),
        ("https://[::ffff:8.8.8.8]/", "https://[::ffff:808:808]/"),
        ("https://[2A00:1450::1]:8443/", "https://[2a00:1450::1]:8443/"),
        ("https://[2001:200::1]/", "https://[2001:200::1]/"),
        ("https://[3ffe:ffff::1]/", "https://[3ffe:ffff::1]/"),
    ];
    for (url, normalised) in cases {
        check_accepted(&TargetPolicy::staging(), url, normalised);
        if url.to_ascii_lowercase().starts_with("https:") {
            check_accepted(&TargetPolicy::production(), url, normalised);
        }
    }
}

#[test]
fn development_opens_loopback_and_private_only() {
    let development = TargetPolicy::development();
    for url in [
        "http://localhost:9000/",
        "http://app.localhost/",
        "http://127.0.0.1:22/",
        "http://[::1]:9000/",
        "http://[::ffff:127.0.0.1]/",
        "http://10.1.2.3/",
        "http://192.168.1.1:81/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://[fd12::1]/",
        "http://receiver:8080/",
        "http://my_service:8080/",
        "http://host.docker.internal/",
        "http://printer.local/",
        "https://example.com/",
    ] {
        assert!(development.judge_url(url).is_ok(), "{url}");
    }
    for url in [
        "http://169.254.169.254/",
        "http://169.254.1.1/",
        "http://168.63.129.16/",
        "http://[fd00:ec2::254]/",
        "http://[fd20:ce::254]/",
        "http://192.0.0.192/",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://224.0.0.1/",
        "http://[ff02::1]/",
        "http://[fe80::1]/",
        "http://255.255.255.255/",
        "http://127.1/",
        "http://metadata.google.internal/",
        "http://metadata/",
        "http://kubernetes.default.svc/",
        "http://kubernetes/",
        "http://kubernetes.default.svc.cluster.local/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::1.1.1.1]/",
        "http://localhost:0/",
        "http://u:p@localhost/",
        "http://198.18.0.1/",
        "http://[2002:7f00:1::]/",
    ] {
        check_refused(&development, url);
    }
}

#[test]
fn settings_override_the_profile() {
    let closed = TargetPolicy::development().with_blocked_loopback(true).with_blocked_private(true);
    for url in
        ["http://localhost/", "http://127.0.0.1/", "http://[::1]/", "http://10.0.0.1/", "http://receiver/"]
    {
        check_refused(&closed, url);
    }
    let open = TargetPolicy::production().with_blocked_private(false);
    check_accepted(&open, "https://10.0.0.1/", "https://10.0.0.1/");
    check_accepted(&open, "https://hooks.corp.internal/", "https://hooks.corp.internal/");
    check_refused(&open, "https://localhost/");
    check_refused(&open, "https://169.254.169.254/");
    let nat64 = TargetPolicy::production().with_nat64(true);
    check_accepted(&nat64, "https://[64:ff9b::8.8.8.8]/", "https://[64:ff9b::808:808]/");
    check_refused(&nat64, "https://[64:ff9b::10.0.0.1]/");
    check_refused(&nat64, "https://[64:ff9b::169.254.169.254]/");
}

#[test]
fn the_edges_of_the_blocks_are_exact() {
    let staging = TargetPolicy::staging();
    let cases = [
        ("0.255.255.255", "1.0.0.0"),
        ("10.0.0.0", "9.255.255.255"),
        ("10.255.255.255", "11.0.0.0"),
        ("100.64.0.0", "100.63.255.255"),
        ("100.127.255.255", "100.128.0.0"),
        ("127.0.0.0", "126.255.255.255"),
        ("127.255.255.255", "128.0.0.0"),
        ("168.63.129.16", "168.63.129.15"),
        ("168.63.129.16", "168.63.129.17"),
        ("169.254.0.0", "169.253.255.255"),
        ("169.254.255.255", "169.255.0.0"),
        ("172.16.0.0", "172.15.255.255"),
        ("172.31.255.255", "172.32.0.0"),
        ("192.0.0.0", "191.255.255.255"),
        ("192.0.0.255", "192.0.1.0"),
        ("192.0.2.0", "192.0.1.255"),
        ("192.0.2.255", "192.0.3.0"),
        ("192.31.196.255", "192.31.197.0"),
        ("192.52.193.0", "192.52.192.255"),
        ("192.88.99.255", "192.88.100.0"),
        ("192.168.0.0", "192.167.255.255"),
        ("192.168.255.255", "192.169.0.0"),
        ("192.175.48.0", "192.175.47.255"),
        ("198.18.0.0", "198.17.255.255"),
        ("198.19.255.255", "198.20.0.0"),
        ("198.51.100.255", "198.51.101.0"),
        ("203.0.113.0", "203.0.112.255"),
        ("224.0.0.0", "223.255.255.255"),
        ("1fff:ffff::", "2000::"),
        ("4000::", "3fff:1000::"),
        ("2001:1ff:ffff::", "2001:200::"),
        ("2001:db8::", "2001:db7:ffff::"),
        ("2001:db8:ffff::", "2001:db9::"),
        ("2002::", "2001:ffff::"),
        ("2002:ffff::", "2003::"),
        ("3fff::", "3ffe:ffff::"),
        ("3fff:fff::", "3fff:1000::"),
        ("2620:4f:8000::", "2620:4f:7fff::"),
        ("2620:4f:8000:ffff::", "2620:4f:8001::"),
    ];
    for (refused, accepted) in cases {
        let judge = |text: &str| staging.judge_address(text.parse().unwrap());
        assert!(judge(refused).is_err(), "{refused} must be refused");
        assert!(judge(accepted).is_ok(), "{accepted} must be accepted");
    }
}

#[test]
fn a_target_knows_its_parts() {
    let target = TargetPolicy::staging().judge_url("http://User.Example.COM.:8080/a?b#c").unwrap();
    assert_eq!(target.scheme(), Scheme::Http);
    assert_eq!(target.host(), "user.example.com");
    assert_eq!(target.port(), 8080);
    assert_eq!(target.address(), None);
    assert_eq!(target.path_and_query(), "/a?b");
    let literal = TargetPolicy::staging().judge_url("https://[::ffff:8.8.8.8]").unwrap();
    assert_eq!(literal.host(), "::ffff:808:808");
    assert_eq!(literal.address(), Some("8.8.8.8".parse::<IpAddr>().unwrap()));
    assert_eq!((literal.port(), literal.path_and_query()), (443, "/"));
}

/// Text that is close enough to a URL to get far.
fn url_like() -> impl Strategy<Value = String> {
    let scheme = prop_oneof![Just("http:"), Just("https:"), Just("HTTPS:"), Just("ftp:"), Just("")];
    let slashes = prop_oneof![8 => Just("//"), 1 => Just("/"), 1 => Just("///"), 1 => Just("\\\\")];
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        any::<u32>().prop_map(|number| number.to_string()),
        any::<u32>().prop_map(|number| format!("0x{number:x}")),
        "[a-z0-9äß。．１-３-]{1,8}(\\.[a-z0-9ü]{1,6}){0,3}\\.?",
        "\\PC{0,12}",
    ];
    let port =
        prop_oneof![4 => Just(String::new()), 1 => (0_u32..70_000).prop_map(|port| format!(":{port}"))];
    let rest = prop_oneof![Just(String::new()), "[/?#]\\PC{0,20}", "/[ -~]{0,20}"];
    (scheme, slashes, host, port, rest)
        .prop_map(|(scheme, slashes, host, port, rest)| format!("{scheme}{slashes}{host}{port}{rest}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_accepted_is_stable_and_judged(url in prop_oneof![4 => url_like(), 1 => any::<String>()]) {
        for (name, policy) in profiles() {
            let Ok(target) = policy.judge_url(&url) else { continue };
            let again = policy.judge_url(target.as_str());
            prop_assert_eq!(again.as_ref(), Ok(&target), "{} reads {:?} in two ways", name, url);
            // Another parser must see the same place, and no userinfo.
            let parsed = url::Url::parse(target.as_str()).expect("a normalised URL parses");
            prop_assert_eq!(parsed.host_str().map(|host| host.trim_matches(['[', ']'])), Some(target.host()));
            prop_assert_eq!(parsed.port_or_known_default(), Some(target.port()));
            prop_assert_eq!((parsed.username(), parsed.password()), ("", None));
            let uri: http::Uri = target.as_str().parse().expect("a normalised URL is a URI");
            prop_assert_eq!(uri.host().map(|host| host.trim_matches(['[', ']'])), Some(target.host()));
            // Whatever reads as an address is one that was judged.
            if let Ok(address) = target.host().parse::<IpAddr>() {
                prop_assert_eq!(target.address(), Some(address.to_canonical()));
                prop_assert!(policy.judge_address(address).is_ok());
            }
        }
    }

    #[test]
    fn staging_accepts_no_more_than_development(address in any::<IpAddr>()) {
        let [development, staging, production] = profiles().map(|(_, policy)| policy.judge_address(address).is_ok());
        prop_assert!(!staging || development);
        prop_assert_eq!(staging, production);
    }
}
