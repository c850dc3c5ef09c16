//! What kind of place an IP address is.
//!
//! The tables follow the IANA special-purpose registries (IPv4, IPv6), plus the addresses at which clouds serve
//! credentials to whoever asks. They are written out, because the generic `is_global` helpers forget AS112, AMT,
//! 6to4 relays and every metadata service that lives in ordinary address space. For IPv6 the table is the other
//! way round: only the space that is handed out to networks counts as public, everything else is special.
//!
//! Nothing here decides anything; [`crate::TargetPolicy`] does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kinds of place that a policy tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Ordinary public unicast space.
    Public,
    /// This very machine.
    Loopback,
    /// RFC 1918, carrier-grade NAT, unique local IPv6.
    Private,
    /// The well-known NAT64 prefix, with the IPv4 address it leads to.
    Nat64(Ipv4Addr),
    /// Everything that is never a webhook receiver: link-local, metadata, multicast, documentation, tunnels, …
    Special,
}

/// Classifies `address`. IPv4-mapped IPv6 counts as the IPv4 address that a kernel would connect to.
pub(crate) fn place_of(address: IpAddr) -> Place {
    match address.to_canonical() {
        IpAddr::V4(v4) => place_of_v4(v4),
        IpAddr::V6(v6) => place_of_v6(v6),
    }
}

struct BlockV4(u32, u32);
struct BlockV6(u128, u32);

impl BlockV4 {
    const fn new(octets: [u8; 4], prefix: u32) -> Self {
        Self(u32::from_be_bytes(octets), u32::MAX << (32 - prefix))
    }

    const fn holds(&self, address: u32) -> bool {
        address & self.1 == self.0
    }
}

impl BlockV6 {
    /// `head` is the first four groups; no block here is longer than that but the single addresses, see `host`.
    const fn new(head: [u16; 4], prefix: u32) -> Self {
        Self(Ipv6Addr::new(head[0], head[1], head[2], head[3], 0, 0, 0, 0).to_bits(), prefix)
    }

    const fn holds(&self, address: u128) -> bool {
        (address ^ self.0) >> (128 - self.1) == 0
    }
}

/// Checked before the private blocks, since some of these live inside them.
const SPECIAL_V4: [BlockV4; 17] = [
    BlockV4::new([0, 0, 0, 0], 8),          // this network
    BlockV4::new([100, 100, 100, 200], 32), // metadata, inside the carrier-grade NAT block
    BlockV4::new([168, 63, 129, 16], 32),   // platform agent of a cloud, in public space
    BlockV4::new([169, 254, 0, 0], 16),     // link-local, and most metadata services
    BlockV4::new([192, 0, 0, 0], 24),       // IETF protocol assignments, one more metadata service
    BlockV4::new([192, 0, 2, 0], 24),       // documentation
    BlockV4::new([192, 31, 196, 0], 24),    // AS112
    BlockV4::new([192, 52, 193, 0], 24),    // AMT
    BlockV4::new([192, 88, 99, 0], 24),     // 6to4 relays
    BlockV4::new([192, 175, 48, 0], 24),    // AS112
    BlockV4::new([198, 18, 0, 0], 15),      // benchmarking
    BlockV4::new([198, 51, 100, 0], 24),    // documentation
    BlockV4::new([203, 0, 113, 0], 24),     // documentation
    BlockV4::new([224, 0, 0, 0], 4),        // multicast
    BlockV4::new([233, 252, 0, 0], 24),     // documentation (inside multicast)
    BlockV4::new([240, 0, 0, 0], 4),        // reserved
    BlockV4::new([255, 255, 255, 255], 32), // broadcast
];

const LOOPBACK_V4: BlockV4 = BlockV4::new([127, 0, 0, 0], 8);

const PRIVATE_V4: [BlockV4; 4] = [
    BlockV4::new([10, 0, 0, 0], 8),
    BlockV4::new([100, 64, 0, 0], 10),
    BlockV4::new([172, 16, 0, 0], 12),
    BlockV4::new([192, 168, 0, 0], 16),
];

/// Metadata services of clouds inside the unique local range.
const METADATA_V6: [BlockV6; 3] = [
    BlockV6::new([0xfd00, 0x0ec2, 0, 0], 32),
    BlockV6::new([0xfd20, 0x00ce, 0, 0], 32),
    BlockV6::new([0xfd00, 0x0042, 0, 0], 32),
];

const UNIQUE_LOCAL_V6: BlockV6 = BlockV6::new([0xfc00, 0, 0, 0], 7);
const GLOBAL_UNICAST_V6: BlockV6 = BlockV6::new([0x2000, 0, 0, 0], 3);
const NAT64_V6: BlockV6 = BlockV6::new([0x0064, 0xff9b, 0, 0], 96);

/// Holes in the global unicast range.
const SPECIAL_V6: [BlockV6; 5] = [
    BlockV6::new([0x2001, 0, 0, 0], 23), // IETF protocol assignments, Teredo, ORCHID, AMT
    BlockV6::new([0x2001, 0x0db8, 0, 0], 32), // documentation
    BlockV6::new([0x2002, 0, 0, 0], 16), // 6to4
    BlockV6::new([0x2620, 0x004f, 0x8000, 0], 48), // AS112
    BlockV6::new([0x3fff, 0, 0, 0], 20), // documentation
];

fn place_of_v4(address: Ipv4Addr) -> Place {
    let bits = address.to_bits();
    if SPECIAL_V4.iter().any(|block| block.holds(bits)) {
        Place::Special
    } else if LOOPBACK_V4.holds(bits) {
        Place::Loopback
    } else if PRIVATE_V4.iter().any(|block| block.holds(bits)) {
        Place::Private
    } else {
        Place::Public
    }
}

fn place_of_v6(address: Ipv6Addr) -> Place {
    let bits = address.to_bits();
    if address == Ipv6Addr::LOCALHOST {
        Place::Loopback
    } else if NAT64_V6.holds(bits) {
        let [.., a, b, c, d] = address.octets();
        Place::Nat64(Ipv4Addr::new(a, b, c, d))
    } else if METADATA_V6.iter().any(|block| block.holds(bits)) {
        Place::Special
    } else if UNIQUE_LOCAL_V6.holds(bits) {
        Place::Private
    } else if GLOBAL_UNICAST_V6.holds(bits) && !SPECIAL_V6.iter().any(|block| block.holds(bits)) {
        Place::Public
    } else {
        Place::Special
    }
}
