//! Compares the table of modules in `lib.rs`, and the order of the folders, with the `use` lines
//! and paths of the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::modules::{ModulePath, Source};

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The table of `lib.rs`: each module with what the table says that it knows.
fn table() -> BTreeMap<String, String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut table = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let cells: Vec<_> = line.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [names, _, knows] = cells[..] else { panic!("a row of the table has three cells: {line}") };
        for name in names.split([',', ' ', '[', ']', '`']).filter(|name| !name.is_empty()) {
            table.insert(name.to_owned(), knows.to_owned());
        }
    }
    table
}

/// The folders (or files) of `src/`, each with those that it imports.
fn rooms(source: &Source) -> Graph {
    let mut graph = Graph::new();
    for path in source.paths().filter(|path| !path.is_empty()) {
        let imports = source.imports(path).into_iter().filter_map(|to| to.first().cloned());
        let room = graph.entry(path[0].clone()).or_default();
        room.extend(imports.filter(|to| *to != path[0]));
    }
    graph
}

/// A way from a node back to itself, if there is one.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn walk(graph: &Graph, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let Some(here) = way.last().cloned() else { return false };
        for next in graph.get(&here).into_iter().flatten() {
            if let Some(at) = way.iter().position(|node| node == next) {
                way.drain(..at);
                way.push(next.clone());
                return true;
            }
            if done.contains(next) {
                continue;
            }
            way.push(next.clone());
            if walk(graph, way, done) {
                return true;
            }
            way.pop();
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        walk(graph, &mut way, &mut done).then_some(way)
    })
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
    assert_eq!((found.len(), found.first()), (3, found.last()));
}

#[test]
fn no_two_rooms_import_each_other() {
    let rooms = rooms(&Source::read());
    assert!(rooms.len() > 10, "{rooms:?}");
    assert_eq!(circle(&rooms), None);
}

#[test]
fn within_the_relay_no_file_leads_back_to_itself() {
    let source = Source::read();
    let files = source.paths().filter(|path| path.first().is_some_and(|room| room == "relay"));
    let name = |path: &ModulePath| path.join("::");
    let graph: Graph = files.map(|path| (name(path), source.imports(path).iter().map(name).collect())).collect();
    assert!(graph.len() > 15, "{graph:?}");
    assert_eq!(circle(&graph), None);
}

#[test]
fn the_relay_is_used_by_run_and_by_what_joins_alone() {
    let source = Source::read();
    let users: BTreeSet<_> = source
        .paths()
        .filter(|path| path.first().is_some_and(|room| room != "relay"))
        .filter(|path| source.imports(path).iter().any(|to| to.first().is_some_and(|room| room == "relay")))
        // Each command counts as a user of its own.
        .map(|path| path[..path.len().min(if path[0] == "cli" { 2 } else { 1 })].join("::"))
        .collect();
    assert_eq!(users, ["cli::run", "joining"].map(str::to_owned).into());
}

#[test]
fn every_room_stands_in_the_table_and_keeps_to_what_it_says() {
    let (source, table) = (Source::read(), table());
    let rooms = rooms(&source);
    for room in rooms.keys().filter(|room| *room != "lsn") {
        assert!(table.contains_key(room), "src/{room} is not in the table of lib.rs");
    }
    let mut broken = Vec::new();
    for (place, knows) in &table {
        let place: ModulePath = place.split("::").map(str::to_owned).collect();
        let inside: Vec<_> = source.paths().filter(|path| path.starts_with(&place)).collect();
        assert!(!inside.is_empty(), "the table of lib.rs has {place:?}, and src/ does not");
        for path in inside {
            for named in forbidden(knows).iter().flat_map(|forbidden| forbidden.among(&source, path)) {
                broken.push(format!(
                    "{} names {named}, and {} is to know {knows:?}",
                    path.join("::"),
                    place.join("::")
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn starts(named: &str, name: &str) -> bool {
    named.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What a word of the table forbids.
struct Forbidden {
    rooms: &'static [&'static str],
    crates: &'static [&'static str],
}

impl Forbidden {
    /// The forbidden words that a module names.
    fn among(&self, source: &Source, path: &ModulePath) -> Vec<String> {
        let rooms = source.imports(path).into_iter().map(|to| to.join("::"));
        let crates = source.crates(path).into_iter();
        let rooms = rooms.filter(|to| self.rooms.iter().any(|room| starts(to, room)));
        rooms.chain(crates.filter(|named| self.crates.iter().any(|name| starts(named, name)))).collect()
    }
}

const NO_KAFKA: Forbidden = Forbidden { rooms: &["kafka"], crates: &["rdkafka"] };
const NO_POSTGRES: Forbidden = Forbidden { rooms: &["postgres"], crates: &["tokio_postgres", "postgres_protocol"] };
/// No socket, clock or thread.
const PURE: Forbidden = Forbidden {
    rooms: &["telemetry", "http"],
    crates: &[
        "tokio",
        "tokio_postgres",
        "rdkafka",
        "std::fs",
        "std::net",
        "std::thread",
        "std::sync::mpsc",
        "Instant::now",
        "SystemTime::now",
    ],
};

fn forbidden(knows: &str) -> Vec<Forbidden> {
    let mut forbidden = Vec::new();
    for word in knows.split("; ") {
        match word {
            "pure" => forbidden.push(PURE),
            "no Kafka" => forbidden.push(NO_KAFKA),
            "no Postgres" => forbidden.push(NO_POSTGRES),
            "no server" => forbidden.extend([NO_KAFKA, NO_POSTGRES]),
            _ => {}
        }
    }
    forbidden
}
