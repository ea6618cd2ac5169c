use std::net::{IpAddr, Ipv4Addr};

use tunneld_wire::ethernet::MacAddress;

use super::*;
use crate::encapsulation::Encapsulation;
use crate::encapsulation::Vtep;
use crate::fib::{SourceCheck, Target};
use crate::testing::{UNDERLAY_B, change, host_a, parameters, settings, vtep};

/// Everything the tables hold, as text.
fn contents(tables: &Tables) -> String {
    let adjacencies: Vec<_> =
        tables.adjacencies().map(|(name, parameters, _)| (name, parameters)).collect();
    let entries: Vec<_> =
        tables.entries().map(|(prefix, target)| format!("{prefix} {target}")).collect();
    format!("{} {:?} {adjacencies:?} {entries:?}", tables.generation(), tables.settings())
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn to(name: &str) -> TargetName {
    TargetName::Adjacency(name.into())
}

/// Checks that `change` is refused with `message`, and that nothing of it stays.
#[track_caller]
fn refused(change: Change, message: &str) {
    let (mut tables, _) = host_a(SourceCheck::Strict);
    let before = contents(&tables);
    assert_eq!(tables.commit(change).unwrap_err().to_string(), message);
    assert_eq!(contents(&tables), before);
}

#[test]
fn tables_hold_what_was_committed_sorted() {
    let (tables, _) = host_a(SourceCheck::Loose);
    assert_eq!(tables.generation(), 1);
    assert_eq!(tables.settings(), Some(&settings(SourceCheck::Loose)));
    let names: Vec<_> = tables.adjacencies().map(|(name, _, _)| name).collect();
    assert_eq!(names, ["b", "c"]);
    let entries: Vec<_> = tables.entries().map(|(p, target)| (p.to_string(), target)).collect();
    let expected = [("10.5.1.0/24", "local"), ("10.5.2.0/24", "b"), ("10.5.3.0/24", "c")];
    assert_eq!(entries, expected.map(|(p, target)| (p.to_owned(), target)));
}

#[test]
fn an_empty_change_only_counts() {
    let (mut tables, _) = host_a(SourceCheck::Strict);
    tables.commit(Change::default()).unwrap();
    assert_eq!(tables.generation(), 2);
    assert_eq!(tables.settings(), Some(&settings(SourceCheck::Strict)));
}

#[test]
fn the_first_bad_item_is_named() {
    let put = |name: &str, parameters| Change {
        put_adjacencies: vec![("x".into(), parameters_b()), (name.into(), parameters)],
        ..Change::default()
    };
    refused(
        put("", parameters_b()),
        "adjacency \"\": its name must be neither empty nor \"local\"",
    );
    refused(
        put("local", parameters_b()),
        "adjacency \"local\": its name must be neither empty nor \"local\"",
    );
    refused(put("x", parameters_b()), "adjacency x: put twice in one change, expected once");
    refused(
        put("y", parameters(Ipv4Addr::UNSPECIFIED, 1_472)),
        "adjacency y: endpoint 0.0.0.0, expected the address of one host",
    );
    refused(
        put("y", parameters(UNDERLAY_B, 67)),
        "adjacency y: MTU 67, expected at least 68 bytes",
    );
    let mut no_port = parameters_b();
    no_port.endpoint.set_port(0);
    refused(put("y", no_port), "adjacency y: port 0, expected 1 to 65535");
}

#[test]
fn an_address_of_a_group_or_of_nobody_is_no_end_of_a_tunnel() {
    for (octets, text) in [([0; 6], "00:00:00:00:00:00"), ([0xff; 6], "ff:ff:ff:ff:ff:ff")] {
        let vtep_mac = MacAddress(octets);
        let encapsulation = Encapsulation::Vxlan { vtep_mac };
        let peer = ("y".to_owned(), Parameters { encapsulation, ..parameters_b() });
        refused(
            Change { put_adjacencies: vec![peer], ..Change::default() },
            &format!("adjacency y: vtep_mac {text}, expected the address of one station"),
        );
        let vtep = Some(Vtep { mac_v6: Some(vtep_mac), ..vtep() });
        let settings = Settings { vtep, ..settings(SourceCheck::Off) };
        refused(
            Change { settings: Some(settings), ..Change::default() },
            &format!("settings: vtep mac_v6 {text}, expected the address of one station"),
        );
    }
}

#[test]
fn vxlan_needs_an_end_of_its_own() {
    let message = |name: &str| {
        format!(
            "adjacency {name}: encapsulation vxlan, expected settings with a vtep: put them with it"
        )
    };
    let over = Parameters {
        encapsulation: Encapsulation::Vxlan { vtep_mac: MacAddress([2, 0, 0, 0, 0, 2]) },
        ..parameters_b()
    };
    let put = |settings: Option<Settings>| Change {
        settings,
        put_adjacencies: vec![("b".into(), over)],
        ..Change::default()
    };
    let without = settings(SourceCheck::Strict);
    let with = Settings { vtep: Some(vtep()), ..without };
    refused(put(None), &message("b"));
    refused(put(Some(without)), &message("b"));
    assert_eq!(
        Tables::new(1).commit(put(None)).unwrap_err().to_string(),
        message("b"),
        "before there are any settings"
    );

    let (mut tables, _) = host_a(SourceCheck::Strict);
    tables.commit(put(Some(with))).unwrap();
    tables.commit(put(None)).unwrap();
    let before = contents(&tables);
    let take_away = Change { settings: Some(without), ..Change::default() };
    assert_eq!(tables.commit(take_away.clone()).unwrap_err().to_string(), message("b"));
    assert_eq!(contents(&tables), before);
    // It may go with the last adjacency that needs it.
    let raw = vec![("b".into(), parameters_b())];
    tables.commit(Change { put_adjacencies: raw, ..take_away.clone() }).unwrap();
    tables.commit(put(Some(with))).unwrap();
    let gone = vec!["b".into()];
    let entries = vec![prefix("10.5.2.0/24")];
    tables.commit(Change { drop_adjacencies: gone, drop_entries: entries, ..take_away }).unwrap();
}

#[test]
fn an_endpoint_may_be_of_either_family() {
    let (mut tables, _) = host_a(SourceCheck::Strict);
    let endpoint = "[2001:db8::2]:8472".parse().unwrap();
    let peer = ("d".to_owned(), Parameters { endpoint, ..parameters_b() });
    let fib = tables.commit(Change { put_adjacencies: vec![peer], ..Change::default() }).unwrap();
    assert!(fib.by_endpoint(endpoint.ip()).is_some());
    assert!(fib.by_endpoint(UNDERLAY_B.into()).is_some());
    let unspecified = "[::]:8472".parse().unwrap();
    let peer = ("e".to_owned(), Parameters { endpoint: unspecified, ..parameters_b() });
    refused(
        Change { put_adjacencies: vec![peer], ..Change::default() },
        "adjacency e: endpoint ::, expected the address of one host",
    );
}

fn parameters_b() -> Parameters {
    parameters(UNDERLAY_B, 1_472)
}

#[test]
fn bad_settings_are_named() {
    let put = |edit: &dyn Fn(&mut Settings)| {
        let mut settings = settings(SourceCheck::Off);
        edit(&mut settings);
        Change { settings: Some(settings), ..Change::default() }
    };
    refused(
        put(&|settings| settings.device_mtu_bytes = 0),
        "settings: MTU 0, expected at least 68 bytes",
    );
    refused(
        put(&|settings| settings.icmp_source = Some(Ipv4Addr::new(224, 0, 0, 1))),
        "settings: icmp_source 224.0.0.1, expected the address of one host",
    );
    refused(
        put(&|settings| settings.icmp_source_v6 = Some("ff02::1".parse().unwrap())),
        "settings: icmp_source_v6 ff02::1, expected the address of one host",
    );
    refused(
        put(&|settings| {
            settings.icmp_source_v6 = Some("fd00::1".parse().unwrap());
            settings.device_mtu_bytes = 1_279;
        }),
        "settings: MTU 1279, expected at least 1280 bytes",
    );
}

#[test]
fn an_entry_needs_a_target_that_is_there_afterwards() {
    let message = "entry 10.5.9.0/24: no adjacency is named \"d\"; put it with the entry";
    let entry = vec![(prefix("10.5.9.0/24"), to("d"))];
    refused(Change { put_entries: entry, ..Change::default() }, message);
    refused(
        Change {
            drop_adjacencies: vec!["b".into()],
            put_entries: vec![(prefix("10.5.2.0/24"), to("b"))],
            ..Change::default()
        },
        "entry 10.5.2.0/24: no adjacency is named \"b\"; put it with the entry",
    );
    let twice = vec![(prefix("10.5.9.0/24"), to("b")), (prefix("10.5.9.0/24"), to("c"))];
    refused(
        Change { put_entries: twice, ..Change::default() },
        "entry 10.5.9.0/24: put twice in one change, expected once",
    );
}

#[test]
fn an_adjacency_in_use_stays() {
    refused(
        Change { drop_adjacencies: vec!["b".into()], ..Change::default() },
        "adjacency b: still in use, entries that lead to it: 1; drop them too",
    );
    refused(
        Change {
            drop_adjacencies: vec!["b".into()],
            drop_entries: vec![prefix("10.5.3.0/24"), prefix("10.5.3.0/24")],
            ..Change::default()
        },
        "adjacency b: still in use, entries that lead to it: 1; drop them too",
    );
}

#[test]
fn an_adjacency_goes_with_its_entries_or_after_they_were_redirected() {
    let (mut tables, _) = host_a(SourceCheck::Strict);
    let fib = tables
        .commit(Change {
            drop_adjacencies: vec!["b".into()],
            drop_entries: vec![prefix("10.5.2.0/24")],
            ..Change::default()
        })
        .unwrap();
    assert_eq!(fib.lookup(Ipv4Addr::new(10, 5, 2, 1)), None);
    assert_eq!(fib.by_endpoint(UNDERLAY_B.into()), None);
    let fib = tables
        .commit(Change {
            drop_adjacencies: vec!["c".into()],
            put_entries: vec![(prefix("10.5.3.0/24"), TargetName::Local)],
            ..Change::default()
        })
        .unwrap();
    assert_eq!(fib.lookup(Ipv4Addr::new(10, 5, 3, 1)), Some(Target::Local));
    assert_eq!(tables.adjacencies().count(), 0);
}

#[test]
fn dropping_what_is_not_there_does_nothing() {
    let (mut tables, _) = host_a(SourceCheck::Strict);
    let gone = Change {
        drop_adjacencies: vec!["nobody".into()],
        drop_entries: vec![prefix("10.6.0.0/24")],
        ..Change::default()
    };
    tables.commit(gone).unwrap();
    assert_eq!(tables.entries().count(), 3);
}

#[test]
fn counters_survive_a_put_and_a_drop_with_a_put_but_no_drop() {
    let (mut tables, _) = host_a(SourceCheck::Strict);
    let count = |tables: &Tables| tables.adjacencies().next().unwrap().2.read().tx_packets;
    tables.adjacencies().next().unwrap().2.outbound(0).count(1, 100, 1);
    let again = Change {
        drop_adjacencies: vec!["b".into()],
        put_adjacencies: vec![("b".into(), parameters(UNDERLAY_B, 1_000))],
        ..Change::default()
    };
    let fib = tables.commit(again.clone()).unwrap();
    assert_eq!(count(&tables), 1);
    let Some(Target::Adjacency(id)) = fib.lookup(Ipv4Addr::new(10, 5, 2, 1)) else { panic!() };
    assert_eq!(fib.adjacency(id).parameters.mtu_bytes, 1_000);
    let gone = Change {
        drop_adjacencies: vec!["b".into()],
        drop_entries: vec![prefix("10.5.2.0/24")],
        ..Change::default()
    };
    tables.commit(gone).unwrap();
    tables.commit(again).unwrap();
    assert_eq!(count(&tables), 0);
}

#[test]
fn an_old_fib_is_not_touched_by_a_later_change() {
    let (mut tables, old) = host_a(SourceCheck::Strict);
    let redirect = vec![(prefix("10.5.2.0/24"), to("c"))];
    let new = tables.commit(Change { put_entries: redirect, ..Change::default() }).unwrap();
    let address = Ipv4Addr::new(10, 5, 2, 1);
    assert_ne!(old.lookup(address), new.lookup(address));
}

#[test]
fn many_changes_in_a_row_agree_with_a_fresh_start() {
    let mut state = 5u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut tables, _) = host_a(SourceCheck::Strict);
    let mut model: BTreeMap<u8, u64> = BTreeMap::new();
    for _ in 0..500 {
        let subnet = 10 + random(40) as u8;
        let entry = prefix(&format!("10.6.{subnet}.0/24"));
        let peer = random(8);
        let fib = if random(3) == 0 {
            model.remove(&subnet);
            tables.commit(Change { drop_entries: vec![entry], ..Change::default() })
        } else {
            model.insert(subnet, peer);
            let endpoint = Ipv4Addr::new(192, 168, 1, peer as u8 + 1);
            tables.commit(Change {
                put_adjacencies: vec![(format!("p{peer}"), parameters(endpoint, 1_472))],
                put_entries: vec![(entry, to(&format!("p{peer}")))],
                ..Change::default()
            })
        }
        .unwrap();
        for subnet in 10..50u8 {
            let found = fib.lookup(Ipv4Addr::new(10, 6, subnet, 9)).map(|target| match target {
                Target::Local => panic!("nothing there is ours"),
                Target::Adjacency(id) => fib.adjacency(id).name.to_string(),
            });
            assert_eq!(found, model.get(&subnet).map(|peer| format!("p{peer}")));
        }
        for peer in 0..8u64 {
            let users = model.values().filter(|user| **user == peer).count();
            let known = tables.adjacencies.get(format!("p{peer}").as_str());
            assert_eq!(known.map_or(0, |known| known.uses), users, "p{peer}");
        }
    }
}

#[test]
fn keys_of_dropped_adjacencies_are_used_again() {
    let mut tables = Tables::new(1);
    for round in 0..100 {
        let name = format!("p{round}");
        let put = vec![(name.clone(), parameters_b())];
        tables.commit(Change { put_adjacencies: put, ..Change::default() }).unwrap();
        tables.commit(Change { drop_adjacencies: vec![name], ..Change::default() }).unwrap();
    }
    assert_eq!(tables.names.len(), 1);
    assert!(
        tables.commit(change(SourceCheck::Off)).unwrap().by_endpoint(UNDERLAY_B.into()).is_some()
    );
}

#[test]
fn entries_of_both_families_stand_side_by_side() {
    let mut tables = Tables::new(1);
    let fib = tables.commit(crate::testing::dual_stack(SourceCheck::Strict)).unwrap();
    let entries: Vec<_> = tables.entries().map(|(p, target)| format!("{p} {target}")).collect();
    let expected = [
        "10.5.1.0/24 local",
        "10.5.2.0/24 b",
        "10.5.3.0/24 c",
        "fd00:5:1::/48 local",
        "fd00:5:2::/48 b",
        "fd00:5:3::/48 c",
    ];
    assert_eq!(entries, expected);
    let address = "fd00:5:2::9".parse::<std::net::Ipv6Addr>().unwrap();
    assert_eq!(fib.lookup(address), fib.lookup(Ipv4Addr::new(10, 5, 2, 9)));
    let fib = tables
        .commit(Change { drop_entries: vec![prefix("fd00:5:2::/48")], ..Change::default() })
        .unwrap();
    assert_eq!(fib.lookup(address), None);
    assert!(fib.lookup(Ipv4Addr::new(10, 5, 2, 9)).is_some());
}

#[test]
fn an_adjacency_keeps_its_id_whatever_becomes_of_others() {
    let (mut tables, fib) = host_a(SourceCheck::Strict);
    let id_of = |fib: &Fib, text: &str| match fib.lookup(text.parse::<IpAddr>().unwrap()) {
        Some(Target::Adjacency(id)) => id,
        other => panic!("{text}: {other:?}"),
    };
    let c = id_of(&fib, "10.5.3.2");
    // B, which is before C by name, goes, and another one before both comes.
    let fib = tables
        .commit(Change {
            drop_adjacencies: vec!["b".into()],
            drop_entries: vec!["10.5.2.0/24".parse().unwrap()],
            ..Change::default()
        })
        .unwrap();
    assert_eq!(id_of(&fib, "10.5.3.2"), c);
    let fib = tables
        .commit(Change {
            put_adjacencies: vec![("a".into(), parameters(UNDERLAY_B, 1_400))],
            put_entries: vec![("10.5.2.0/24".parse().unwrap(), TargetName::Adjacency("a".into()))],
            ..Change::default()
        })
        .unwrap();
    assert_eq!(id_of(&fib, "10.5.3.2"), c);
    assert_ne!(id_of(&fib, "10.5.2.2"), c);
    assert_eq!(&*fib.adjacency(c).name, "c");
}

#[test]
fn ids_of_peers_that_come_and_go_do_not_grow_without_end() {
    let mut tables = Tables::new(1);
    let peers: Vec<_> =
        (0..40).map(|peer| (format!("old {peer}"), parameters(UNDERLAY_B, 1_400))).collect();
    let gone = peers.iter().map(|(name, _)| name.clone()).collect();
    // A thread that sleeps keeps this one.
    let _kept = tables.commit(Change { put_adjacencies: peers, ..Change::default() }).unwrap();
    tables.commit(Change { drop_adjacencies: gone, ..Change::default() }).unwrap();
    let mut last = None;
    for round in 0..1_000u32 {
        let name = format!("peer {round}");
        tables
            .commit(Change {
                put_adjacencies: vec![(name.clone(), parameters(UNDERLAY_B, 1_400))],
                drop_adjacencies: last.replace(name).into_iter().collect(),
                ..Change::default()
            })
            .unwrap();
    }
    assert!(tables.names.len() <= 43, "{}", tables.names.len());
}

#[test]
fn an_id_stands_for_no_other_peer_while_a_fib_in_use_knows_it() {
    let (mut tables, old) = host_a(SourceCheck::Strict);
    let b = old.lookup(Ipv4Addr::new(10, 5, 2, 2));
    let mut replace = |gone: &str, put: &str| {
        let entry = prefix("10.5.2.0/24");
        let fib = tables.commit(Change {
            drop_adjacencies: vec![gone.into()],
            drop_entries: vec![entry],
            ..Change::default()
        });
        drop(fib.unwrap());
        let fib = tables.commit(Change {
            put_adjacencies: vec![(put.into(), parameters(UNDERLAY_B, 1_400))],
            put_entries: vec![(entry, to(put))],
            ..Change::default()
        });
        fib.unwrap().lookup(Ipv4Addr::new(10, 5, 2, 2))
    };
    let other = replace("b", "d");
    assert_ne!(other, b);
    drop(old);
    assert_eq!(replace("d", "e"), b);
    assert_eq!(replace("e", "f"), other);
}

#[test]
fn esp_needs_an_engine_with_encryption() {
    refused(
        crate::testing::esp_change(SourceCheck::Strict),
        "adjacency b: encapsulation esp, expected an engine with encryption: make it with an \
         identity",
    );
}
