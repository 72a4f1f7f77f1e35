//! The source code as a graph: its modules, and which module names which other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, ItemUse, UseTree,
    visit::{self, Visit},
};

/// The path `relay::state::queue` as its three names. The path of the crate itself is empty.
pub(super) type ModulePath = Vec<String>;

/// All modules of `src/` that the binary is built from.
pub(super) struct Source {
    modules: BTreeMap<ModulePath, Module>,
}

/// One file.
#[derive(Default)]
struct Module {
    /// Names that a `use` brings in: the name in this module, and the path as written.
    brought: BTreeMap<String, Vec<String>>,
    /// Every path that the file names, without those that it only re-exports.
    named: BTreeSet<Vec<String>>,
}

impl Source {
    /// Reads `src/`.
    pub(super) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut source = Self { modules: BTreeMap::new() };
        source.read_module(&root.join("lib.rs"), Vec::new(), &root);
        source
    }

    fn read_module(&mut self, file: &Path, path: ModulePath, children: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut reader = Reader::default();
        for item in &parsed.items {
            if let Item::Mod(child) = item
                && child.content.is_none()
                && !is_test(&child.attrs)
            {
                let name = child.ident.to_string();
                let (file, folder) = place(children, &name);
                self.read_module(&file, [path.clone(), vec![name]].concat(), &folder);
            }
            reader.visit_item(item);
        }
        self.modules.insert(path, reader.module);
    }

    /// The modules that define the items which `from` names.
    pub(super) fn imports(&self, from: &ModulePath) -> BTreeSet<ModulePath> {
        let named = self.modules[from].named.iter();
        named.filter_map(|path| self.resolve(from, path, 0)).filter(|to| to != from).collect()
    }

    /// The paths in the module that lead to no module of ours, and so to other crates.
    pub(super) fn crates(&self, from: &ModulePath) -> BTreeSet<String> {
        let named = self.modules[from].named.iter();
        named.filter(|path| self.resolve(from, path, 0).is_none()).map(|path| path.join("::")).collect()
    }

    /// Every module.
    pub(super) fn paths(&self) -> impl Iterator<Item = &ModulePath> {
        self.modules.keys()
    }

    /// The module that defines the item which `path` means in `from`; `None` where it is not one of
    /// ours.
    fn resolve(&self, from: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        assert!(depth < 32, "{path:?} in {from:?} leads in a circle");
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend(Vec::new(), rest, depth),
            "self" => self.descend(from.clone(), rest, depth),
            "super" => {
                let parent = from[..from.len().checked_sub(1)?].to_vec();
                if rest.first().is_some_and(|next| next == "super") {
                    return self.resolve(&parent, rest, depth);
                }
                self.descend(parent, rest, depth)
            }
            name => {
                let child = [from.clone(), vec![name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    return self.descend(child, rest, depth);
                }
                let brought = self.modules[from].brought.get(name)?;
                self.resolve(from, &[brought.clone(), rest.to_vec()].concat(), depth + 1)
            }
        }
    }

    fn descend(&self, mut module: ModulePath, mut rest: &[String], depth: usize) -> Option<ModulePath> {
        while let Some((next, after)) = rest.split_first() {
            let child = [module.clone(), vec![next.clone()]].concat();
            if !self.modules.contains_key(&child) {
                break;
            }
            (module, rest) = (child, after);
        }
        let Some(name) = rest.first() else { return Some(module) };
        match self.modules[&module].brought.get(name) {
            Some(brought) => self.resolve(&module, brought, depth + 1),
            None => Some(module),
        }
    }
}

/// The file of a child module, and the folder of its children.
fn place(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let file = folder.join(format!("{name}.rs"));
    let own = folder.join(name);
    if file.exists() { (file, own) } else { (own.join("mod.rs"), own) }
}

/// Collects what one file names, without its tests.
#[derive(Default)]
struct Reader {
    module: Module,
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut paths = Vec::new();
        leaves(&item.tree, &mut Vec::new(), &mut paths);
        for (name, path) in paths {
            // A re-export does not use what it passes on.
            if matches!(item.vis, syn::Visibility::Inherited) {
                self.module.named.insert(path.clone());
            }
            self.module.brought.insert(name, path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.module.named.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn leaves(tree: &UseTree, prefix: &mut Vec<String>, paths: &mut Vec<(String, Vec<String>)>) {
    let mut leaf = |name: String, last: Option<String>| {
        let mut path = prefix.clone();
        path.extend(last.filter(|last| last != "self"));
        paths.push((name, path));
    };
    match tree {
        UseTree::Name(name) if name.ident == "self" => leaf(prefix.last().cloned().unwrap_or_default(), None),
        UseTree::Name(name) => leaf(name.ident.to_string(), Some(name.ident.to_string())),
        UseTree::Rename(name) => leaf(name.rename.to_string(), Some(name.ident.to_string())),
        UseTree::Glob(_) => leaf("*".to_owned(), None),
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            leaves(&path.tree, prefix, paths);
            prefix.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, prefix, paths)),
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}
