//! One file, as the checks see it: which paths are in it, and which names it makes.
//!
//! Invariant: what is for tests is left out. Paths in what macros are given, and in strings of attributes
//! (`#[serde(with = "super::x")]`), are paths, too.

use std::collections::BTreeSet;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ExprMethodCall, Item, ItemMod, ItemUse, UseTree,
    visit::{self, Visit},
};

/// A path of two names or more, or what a `use` names.
#[derive(Clone, Debug)]
pub(super) struct Mention {
    /// As it is written
    pub(super) segments: Vec<String>,
    /// Where
    pub(super) line: usize,
    /// The modules within the file that it is in
    pub(super) inline: Vec<String>,
}

/// A name that a `use` makes.
#[derive(Clone, Debug)]
pub(super) struct Alias {
    /// The name
    pub(super) name: String,
    /// What it stands for
    pub(super) means: Mention,
    /// Whether it is a name of the file's module, and not of a function or a module in it
    pub(super) outermost: bool,
}

/// A method that is called by name.
#[derive(Clone, Debug)]
pub(super) struct Method {
    /// Its name
    pub(super) name: String,
    /// Where
    pub(super) line: usize,
}

/// A file.
#[derive(Debug, Default)]
pub(super) struct File {
    /// All paths
    pub(super) mentions: Vec<Mention>,
    /// All names that `use` makes
    pub(super) aliases: Vec<Alias>,
    /// Modules of which it imports everything
    pub(super) globs: Vec<Mention>,
    /// The items that it defines itself
    pub(super) items: BTreeSet<String>,
    /// The modules in files of their own that are for tests alone
    pub(super) for_tests: Vec<String>,
    /// Calls of methods
    pub(super) methods: Vec<Method>,
}

/// Reads a file.
pub(super) fn read(text: &str) -> Result<File> {
    let parsed = syn::parse_file(text)?;
    let items = parsed.items.iter().filter_map(name_of).collect();
    let mut reader =
        UseCollector { file: File { items, ..File::default() }, inline: Vec::new(), depth: 0 };
    reader.visit_file(&parsed);
    Ok(reader.file)
}

/// The name of what an item defines.
fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::ExternCrate(_)
        | Item::ForeignMod(_)
        | Item::Impl(_)
        | Item::Mod(_)
        | Item::TraitAlias(_)
        | Item::Use(_)
        | Item::Verbatim(_)
        | _ => return None,
    };
    Some(ident.to_string())
}

/// Whether something is for tests alone: `cfg(test)`, `cfg(all(test, …))`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Ok(list) = attribute.meta.require_list() else { return false };
        let condition = list.tokens.to_string();
        let mut words = condition.split(|c: char| !c.is_alphanumeric() && c != '_');
        attribute.path().is_ident("cfg")
            && !condition.contains("not")
            && !condition.contains("any")
            && words.any(|word| word == "test")
    })
}

struct UseCollector {
    file: File,
    inline: Vec<String>,
    /// How many functions and other bodies are around
    depth: usize,
}

impl UseCollector {
    fn mention(&self, segments: Vec<String>, line: usize) -> Mention {
        Mention { segments, line, inline: self.inline.clone() }
    }

    fn path(&mut self, segments: Vec<String>, line: usize) {
        if segments.len() > 1 {
            let mention = self.mention(segments, line);
            self.file.mentions.push(mention);
        }
    }

    fn import(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| {
            let mut segments = before.to_vec();
            if name != "self" {
                segments.push(name.to_string());
            }
            (segments, name.span().start().line)
        };
        let ((segments, line), name) = match tree {
            UseTree::Path(path) => return self.import(&with(&path.ident).0, &path.tree),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(before, tree));
                return;
            }
            UseTree::Glob(glob) => {
                let mention = self.mention(before.to_vec(), glob.star_token.spans[0].start().line);
                self.file.mentions.push(mention.clone());
                self.file.globs.push(mention);
                return;
            }
            UseTree::Name(name) => (with(&name.ident), None),
            UseTree::Rename(rename) => (with(&rename.ident), Some(rename.rename.to_string())),
        };
        let name = name.or_else(|| segments.last().cloned()).unwrap_or_default();
        let means = self.mention(segments, line);
        self.file.mentions.push(means.clone());
        let outermost = self.inline.is_empty() && self.depth == 0;
        self.file.aliases.push(Alias { name, means, outermost });
    }

    /// What a macro or an attribute is given.
    fn tokens(&mut self, tokens: TokenStream, strings: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, wanted: char| {
            let token = tokens.get(at);
            matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let from = at;
            at += 1;
            match token {
                TokenTree::Group(group) => self.tokens(group.stream(), strings),
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    let mut segments = vec![ident.to_string()];
                    while is(at, ':')
                        && is(at + 1, ':')
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 2)
                    {
                        segments.push(next.to_string());
                        at += 3;
                    }
                    if from > 0 && is(from - 1, '.') {
                        self.file.methods.push(Method { name: ident.to_string(), line });
                    }
                    self.path(segments, line);
                }
                TokenTree::Literal(literal) if strings => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                        && let Ok(path) = text.parse::<syn::Path>()
                    {
                        self.path(segments(&path), literal.span().start().line);
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
}

fn segments(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

macro_rules! visit_unless_for_tests {
    ($($visit:ident: $node:ident),* $(,)?) => {
        $(fn $visit(&mut self, node: &'ast syn::$node) {
            if !is_for_tests(&node.attrs) {
                self.depth += 1;
                visit::$visit(self, node);
                self.depth -= 1;
            }
        })*
    };
}

impl<'ast> Visit<'ast> for UseCollector {
    visit_unless_for_tests! {
        visit_expr_block: ExprBlock,
        visit_expr_call: ExprCall,
        visit_field: Field,
        visit_impl_item_const: ImplItemConst,
        visit_impl_item_fn: ImplItemFn,
        visit_item_const: ItemConst,
        visit_item_enum: ItemEnum,
        visit_item_fn: ItemFn,
        visit_item_impl: ItemImpl,
        visit_item_macro: ItemMacro,
        visit_item_static: ItemStatic,
        visit_item_struct: ItemStruct,
        visit_item_trait: ItemTrait,
        visit_item_type: ItemType,
        visit_local: Local,
        visit_stmt_macro: StmtMacro,
        visit_trait_item_fn: TraitItemFn,
        visit_variant: Variant,
    }

    fn visit_item_mod(&mut self, node: &'ast ItemMod) {
        let name = node.ident.to_string();
        match (&node.content, is_for_tests(&node.attrs)) {
            (None, true) => self.file.for_tests.push(name),
            (Some(_), false) => {
                self.inline.push(name);
                visit::visit_item_mod(self, node);
                self.inline.pop();
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    fn visit_item_use(&mut self, node: &'ast ItemUse) {
        if !is_for_tests(&node.attrs) {
            self.import(&[], &node.tree);
        }
    }

    fn visit_path(&mut self, node: &'ast syn::Path) {
        let line = node.segments.first().map_or(0, |first| first.ident.span().start().line);
        self.path(segments(node), line);
        visit::visit_path(self, node);
    }

    fn visit_expr_method_call(&mut self, node: &'ast ExprMethodCall) {
        if !is_for_tests(&node.attrs) {
            let (name, line) = (node.method.to_string(), node.method.span().start().line);
            self.file.methods.push(Method { name, line });
            visit::visit_expr_method_call(self, node);
        }
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        self.visit_path(&node.path);
        self.tokens(node.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, node: &'ast Attribute) {
        if let Ok(list) = node.meta.require_list() {
            self.tokens(list.tokens.clone(), true);
        }
    }

    /// Who may see something is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}
