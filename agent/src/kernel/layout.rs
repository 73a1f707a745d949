//! The maps by name, with their shapes, and the sizes that a node needs.

use balancing_datapath::{
    AffinityKey, Backend, CallerKey, ConnectedRecord, Frontend, FrontendCounters, FrontendKey,
    MoreUdpRecords, Policy, PolicyCounters, Runtime, Slot, UdpRecords,
};

use super::sys::{MAP_TYPE_ARRAY, MAP_TYPE_HASH, MapShape};

const MAP_TYPE_PERCPU_ARRAY: u32 = 6;
const MAP_TYPE_LRU_HASH: u32 = 9;
const MAP_TYPE_SK_STORAGE: u32 = 24;
const MAP_TYPE_RINGBUF: u32 = 27;

/// Name of the map that user space alone uses: index of a policy -> its kind and name.
const POLICY_NAMES: &str = "policy_names";
/// Bytes of a value of `policy_names`: the kind's number, the length, up to 253 bytes of the name.
pub(super) const POLICY_NAME_SIZE: u32 = 256;

/// Room for frontends and for backends: what is needed, or what there may be at the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Frontends.
    pub frontends: u32,
    /// Backends over all rungs.
    pub backends: u32,
}

/// What a node gets that needs less.
const LEAST: Room = Room { frontends: 1024, backends: 4096 };

/// How many elements the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends.
    pub frontends: u32,
    /// Slots of frontends: more, since a removed one waits for its grace period.
    pub slots: u32,
    /// Ladders of frontends that change again within a grace period.
    pub spares: u32,
    /// Backends over all rungs, twice those in use at the most while they are replaced.
    pub backends: u32,
    /// Policies.
    pub policies: u32,
    /// Callers over all policies.
    pub callers: u32,
    /// Clients of Services with session affinity.
    pub affinity: u32,
    /// Connected UDP sockets that have their record here; a power of two.
    pub udp_sockets: u32,
    /// TCP sockets whose record is kept; a power of two.
    pub tcp_sockets: u32,
    /// Bytes of the ring of events; a power of two and a multiple of the page size.
    pub events: u32,
    /// Copies of the backends with their counters, one for each stripe of CPUs; a power of two.
    pub stripes: u32,
}

impl Sizes {
    /// Sizes for just that many frontends and backends, on a machine with that many CPUs.
    #[must_use]
    pub fn new(frontends: u32, backends: u32, cpus: usize) -> Self {
        // More CPUs open more sockets and have more clients; beyond eight the machine's memory is not the measure.
        let cpus = cpus.clamp(1, 8).next_power_of_two() as u32;
        Self {
            frontends,
            slots: frontends.saturating_add(frontends / 8).saturating_add(64),
            spares: 4096,
            backends,
            policies: 1024,
            callers: 8192,
            affinity: (4096 * cpus).clamp(8192, 16_384),
            udp_sockets: (8192 * cpus).min(65_536),
            tcp_sockets: (16_384 * cpus).min(65_536),
            events: 1 << 20,
            stripes: cpus,
        }
    }

    /// Sizes with room for what is needed and an eighth more, in steps, but for no more than `most`.
    #[must_use]
    pub fn fitting(need: Room, most: Room, cpus: usize) -> Self {
        Self::new(
            roomy(need.frontends, LEAST.frontends, most.frontends),
            roomy(need.backends, LEAST.backends, most.backends),
            cpus,
        )
    }

    /// The same with room for what is needed where there is too little now. What is large enough stays.
    #[must_use]
    pub fn grown(self, need: Room, most: Room) -> Self {
        let grown = |now: u32, need: u32, least: u32, most: u32| {
            if is_tight(need, now, most) { roomy(need, least.max(now), most) } else { now }
        };
        let frontends = grown(self.frontends, need.frontends, LEAST.frontends, most.frontends);
        let slots = if frontends == self.frontends { self.slots } else { Self::new(frontends, 0, 1).slots };
        let backends = grown(self.backends, need.backends, LEAST.backends, most.backends);
        Self { frontends, slots, backends, ..self }
    }

    /// Room for frontends and backends.
    #[must_use]
    pub fn room(&self) -> Room {
        Room { frontends: self.frontends, backends: self.backends }
    }
}

/// Is so little left that it is time to grow, and may it grow?
pub(super) fn is_tight(need: u32, capacity: u32, most: u32) -> bool {
    capacity < most && u64::from(need) * 16 > u64::from(capacity) * 15
}

/// Room for `need` and an eighth more, from `least` to `most`, in eight steps a doubling.
fn roomy(need: u32, least: u32, most: u32) -> u32 {
    let wanted = (u64::from(need) + u64::from(need) / 8).max(u64::from(least));
    let step = (wanted.next_power_of_two() / 16).max(1);
    u32::try_from(wanted.next_multiple_of(step)).unwrap_or(u32::MAX).min(most)
}

/// The CPUs that programs may run on: all of the machine, however few the agent's own cgroup or affinity allows.
#[must_use]
pub fn possible_cpus() -> usize {
    // Where the kernel does not say, too few stripes are only slower.
    aya::util::nr_cpus().unwrap_or(1)
}

/// What becomes of a map's content when the maps are made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carry {
    /// It is filled from the desired state, or starts empty.
    Never,
    /// The old map goes on being used where its shape is the same: records of live sockets, and of clients.
    Always,
    /// The same, but only within one layout version.
    SameLayout,
}

/// A map.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapDefinition {
    /// Name of its pin, in the status and in metrics.
    pub(super) name: &'static str,
    /// Name in the object; empty: the programs do not use it.
    pub(super) symbol: &'static str,
    /// Its shape.
    pub(super) shape: MapShape,
    /// What becomes of its content.
    pub(super) carry: Carry,
}

/// The maps of the object, for these sizes.
pub(super) fn definitions(sizes: &Sizes) -> Vec<MapDefinition> {
    let map = |name, symbol, map_type, key: usize, value: usize, entries, carry| MapDefinition {
        name,
        symbol,
        shape: MapShape { map_type, key: key as u32, value: value as u32, entries },
        carry,
    };
    let array =
        |name, symbol, value, entries, carry| map(name, symbol, MAP_TYPE_ARRAY, 4, value, entries, carry);
    vec![
        map(
            "frontends",
            "FRONTENDS",
            MAP_TYPE_HASH,
            size_of::<FrontendKey>(),
            4,
            sizes.frontends,
            Carry::Never,
        ),
        array("index", "INDEX", 8, index(sizes), Carry::Never),
        array("slots", "SLOTS", size_of::<Slot>(), sizes.slots, Carry::Never),
        array("spares", "SPARES", size_of::<Frontend>(), sizes.spares, Carry::Never),
        array("backends", "BACKENDS", size_of::<Backend>(), sizes.backends * sizes.stripes, Carry::Never),
        array(
            "frontend_counters",
            "FRONTEND_COUNTERS",
            size_of::<FrontendCounters>(),
            sizes.slots,
            Carry::Never,
        ),
        map(
            "policy_counters",
            "POLICY_COUNTERS",
            MAP_TYPE_PERCPU_ARRAY,
            4,
            size_of::<PolicyCounters>(),
            sizes.policies,
            Carry::Never,
        ),
        array("runtime", "RUNTIME", size_of::<Runtime>(), 1, Carry::Never),
        array("policies", "POLICIES", size_of::<Policy>(), sizes.policies, Carry::SameLayout),
        array("locked_windows", "LOCKED_WINDOWS", 16, sizes.policies, Carry::SameLayout),
        map("callers", "CALLERS", MAP_TYPE_HASH, size_of::<CallerKey>(), 4, sizes.callers, Carry::SameLayout),
        map(
            "affinity",
            "AFFINITY",
            MAP_TYPE_LRU_HASH,
            size_of::<AffinityKey>(),
            8,
            sizes.affinity,
            Carry::Always,
        ),
        array("udp_slots", "UDP_SLOTS", size_of::<ConnectedRecord>(), sizes.udp_sockets, Carry::Always),
        array("tcp_slots", "TCP_SLOTS", size_of::<ConnectedRecord>(), sizes.tcp_sockets, Carry::Always),
        map("udp_records", "UDP_RECORDS", MAP_TYPE_SK_STORAGE, 4, size_of::<UdpRecords>(), 0, Carry::Always),
        map("udp_more", "UDP_MORE", MAP_TYPE_SK_STORAGE, 4, size_of::<MoreUdpRecords>(), 0, Carry::Always),
        map("events", "EVENTS", MAP_TYPE_RINGBUF, 0, 0, sizes.events, Carry::Never),
    ]
}

/// A power of two of words, four or more a frontend: of ten that are programmed, nine have their word for themselves.
pub(super) fn index(sizes: &Sizes) -> u32 {
    sizes.frontends.saturating_mul(4).checked_next_power_of_two().unwrap_or(1 << 31)
}

/// The map that user space alone uses.
pub(super) fn policy_names(sizes: &Sizes) -> MapDefinition {
    let shape =
        MapShape { map_type: MAP_TYPE_HASH, key: 4, value: POLICY_NAME_SIZE, entries: sizes.policies };
    MapDefinition { name: POLICY_NAMES, symbol: "", shape, carry: Carry::SameLayout }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stripes_are_a_power_of_two_up_to_eight() {
        let stripes = |cpus| Sizes::new(1, 1, cpus).stripes;
        assert_eq!([0, 1, 2, 3, 5, 8, 128].map(stripes), [1, 1, 2, 4, 8, 8, 8]);
    }

    const MOST: Room = Room { frontends: 65_536, backends: 131_072 };

    #[test]
    fn sizes_follow_the_need_between_the_least_and_the_most() {
        let fitting = |frontends, backends| Sizes::fitting(Room { frontends, backends }, MOST, 2).room();
        assert_eq!(fitting(0, 0), LEAST);
        // 11,250 and 112,500, rounded up to a sixteenth of the next power of two.
        assert_eq!(fitting(10_000, 100_000), Room { frontends: 11_264, backends: 114_688 });
        assert_eq!(fitting(1 << 30, u32::MAX), MOST);
        let few = Room { frontends: 16, backends: 8 };
        assert_eq!(Sizes::fitting(MOST, few, 2).room(), few);
    }

    #[test]
    fn only_what_is_tight_grows_and_never_beyond_the_most() {
        let sizes = Sizes::new(1024, 4096, 2);
        let grown = |frontends, backends| sizes.grown(Room { frontends, backends }, MOST);
        assert_eq!(grown(960, 3840), sizes);
        assert_eq!(grown(961, 0), Sizes { frontends: 1152, slots: 1360, ..sizes });
        assert_eq!(grown(0, 9000), Sizes { backends: 10_240, ..sizes });
        assert_eq!(grown(u32::MAX, u32::MAX).room(), MOST);
        // Made under a lower limit than now.
        let few = Sizes::new(4, 4, 2).grown(Room { frontends: 4, backends: 4 }, MOST);
        assert_eq!(few.room(), LEAST);
        // A limit below what there is: it stays.
        assert_eq!(sizes.grown(MOST, Room { frontends: 10, backends: 10 }), sizes);
    }

    /// Bytes that the kernel takes for a map, without what is the same for every map.
    fn bytes(map: &MapDefinition, cpus: usize) -> u64 {
        let MapShape { map_type, key, value, entries } = map.shape;
        let element = u64::from(key.next_multiple_of(8)) + u64::from(value.next_multiple_of(8)) + 48;
        let buckets = u64::from(entries.next_power_of_two()) * 16;
        match map_type {
            // Those that take memory only for what is there.
            MAP_TYPE_HASH if matches!(map.name, "callers" | POLICY_NAMES) => buckets,
            MAP_TYPE_HASH | MAP_TYPE_LRU_HASH => u64::from(entries) * element + buckets,
            MAP_TYPE_PERCPU_ARRAY => u64::from(entries) * u64::from(value) * cpus as u64,
            MAP_TYPE_RINGBUF => u64::from(entries),
            MAP_TYPE_SK_STORAGE => 0,
            _ => u64::from(entries) * u64::from(value),
        }
    }

    /// The table of the page about memory.
    fn table() -> String {
        let ten = Room { frontends: 20, backends: 60 };
        let many = Room { frontends: 10_000, backends: 100_000 };
        let nodes = [(ten, 2), (ten, 128), (many, 2), (many, 128)];
        let sizes = nodes.map(|(need, cpus)| Sizes::fitting(need, MOST, cpus));
        let mut lines = vec![
            "| map | 10 Services, 2 CPUs | 10 Services, 128 CPUs | 10,000 × 10, 2 CPUs | 10,000 × 10, 128 CPUs |"
                .to_owned(),
            "|---|---|---|---|---|".to_owned(),
        ];
        let maps = sizes.map(|sizes| {
            let mut maps = definitions(&sizes);
            maps.push(policy_names(&sizes));
            maps
        });
        let mut totals = [0; 4];
        for (at, map) in maps[0].iter().enumerate() {
            let row: [u64; 4] = std::array::from_fn(|node| bytes(&maps[node][at], nodes[node].1));
            if row == [0; 4] {
                continue;
            }
            totals.iter_mut().zip(row).for_each(|(total, bytes)| *total += bytes);
            lines.push(line(map.name, row));
        }
        lines.push(line("together", totals));
        lines.join("\n") + "\n"
    }

    fn line(name: &str, bytes: [u64; 4]) -> String {
        let cells = bytes.map(|bytes| {
            let kb = bytes.div_ceil(1000).to_string();
            let (thousands, rest) = kb.split_at(kb.len().saturating_sub(3));
            if thousands.is_empty() { rest.to_owned() } else { format!("{thousands},{rest}") }
        });
        format!("| {name} | {} |", cells.join(" | "))
    }

    /// With `BALANCING_WRITE_DOCS=1` the page is made anew.
    #[test]
    fn the_page_about_memory_has_these_sizes() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/memory.md");
        let text = std::fs::read_to_string(&page).unwrap();
        let (before, rest) = text.split_once("layout.rs -->\n").unwrap();
        let (made, after) = rest.split_once("<!-- end of").unwrap();
        if std::env::var_os("BALANCING_WRITE_DOCS").is_some() {
            let text = format!("{before}layout.rs -->\n{}<!-- end of{after}", table());
            std::fs::write(&page, text).unwrap();
            return;
        }
        assert_eq!(made, table());
    }

    proptest! {
        /// What is tight grows, up to what it may: else it would be made anew for nothing, again and again.
        #[test]
        fn growing_makes_room(now in 1u32..200_000, need in 0u32..200_000, most in 1u32..200_000) {
            let of = |n| Room { frontends: n, backends: n };
            let grown = Sizes::new(now, now, 2).grown(of(need.min(most)), of(most)).room();
            for grown in [grown.frontends, grown.backends] {
                prop_assert_eq!(grown > now, is_tight(need.min(most), now, most));
                prop_assert!(grown == now || (grown >= need.min(most) && grown <= most));
            }
        }
    }

    #[test]
    fn an_agent_that_may_use_one_cpu_makes_the_same_maps() {
        let count = || std::thread::spawn(possible_cpus).join().unwrap();
        let all = count();
        std::thread::spawn(move || {
            let mut one = rustix::thread::CpuSet::new();
            one.set(rustix::thread::sched_getcpu());
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            assert_eq!(count(), all);
        })
        .join()
        .unwrap();
    }
}
