//! From selections and arguments to a plan of the statements and of the answer. The plan is made before any work, so
//! that limits are enforced before any work.

use std::ops::Range;

use apollo_compiler::Name;
use apollo_compiler::executable::Operation;
use apollo_compiler::response::JsonMap;
use apollo_compiler::validation::Valid;
use model::{PackageName, PublicationId, Purl, Timestamp, Username};
use store::{Cursor, Filter};

use super::arguments::{
    Arguments, NodeById, PackageRef, Packages, PackagesByPurl, PublicationFilter, Publications,
    Search,
};
use super::collect::{Collector, Group};
use super::cursor;
use super::fields::{CONNECTION, PACKAGE, REGISTRY};
use super::variables::beginning;
use super::write::{Found, Writer, Written};
use crate::config::{Limits, RegistrySettings};
use crate::error::{Code, QueryError, Segment};

/// The largest page (crates/query/README.md, Pages).
const MAX_FIRST: i32 = 100;
/// A longer purl is not read, and has no record. With every byte of name and version escaped, one has 2.3 KB; the rest is for
/// qualifiers and a subpath. A document can name a purl of two megabytes a thousand times, and reading each would take seconds.
const MAX_PURL: usize = 8 * 1_024;

/// The plan of a request. It borrows nothing from the request.
#[derive(Default)]
pub(crate) struct Plan {
    pub(super) roots: Vec<Root>,
    /// The error that makes the whole `data` null.
    pub(super) broken: Option<QueryError>,
    /// The keys of all fields together, for one statement.
    pub(super) keys: Vec<PublicationId>,
    pub(super) pages: Vec<Page>,
    pub(super) searches: Vec<NameSearch>,
    /// The rows whose histories are selected.
    pub(super) with_history: Vec<WithHistory>,
    /// Whether the rows of the strongest publications are selected too.
    pub(super) with_strongest: bool,
    /// Number of publications asked for: keys, including invalid names, and rows of pages.
    pub(crate) asked: u64,
    /// Upper bound of the values in the answer; the greatest number for an introspection.
    pub(crate) values: u64,
    /// The variables of the introspection, when the request selects it.
    pub(crate) meta: Option<Valid<JsonMap>>,
}

/// A field of the answer's `data`.
pub(super) struct Root {
    pub(super) key: Name,
    pub(super) is_nullable: bool,
    pub(super) write: WriteRoot,
}

type WriteRoot = Box<dyn Fn(&mut Writer<'_>, &Found<'_>) -> Written + Send + Sync>;

/// A page of `publications`.
#[derive(Debug)]
pub(super) struct Page {
    /// `None` when no row can match.
    pub(super) filter: Option<Filter>,
    pub(super) after: Option<Cursor>,
    /// From 1 to 100.
    pub(super) first: u32,
}

/// A `search`.
#[derive(Debug)]
pub(super) struct NameSearch {
    /// From 1 to 512 bytes; `None` for a prefix that no name has.
    pub(super) prefix: Option<String>,
    pub(super) after: Option<String>,
    /// From 1 to 100.
    pub(super) first: u32,
}

/// The rows of a field that selects histories.
#[derive(Debug)]
pub(super) enum WithHistory {
    /// The rows at these indices of the keys.
    Keys(Range<usize>),
    /// The rows of the page with this index.
    Page(usize),
}

/// Why a field has no value.
enum FieldError {
    /// The whole request is refused.
    Refused(String),
    /// The field is null, with an error in the answer.
    Null(String),
}

impl From<String> for FieldError {
    fn from(message: String) -> Self {
        Self::Null(message)
    }
}

type Planned = Result<WriteRoot, FieldError>;

type PlanRoot = fn(&Planner<'_, '_>, &Group<'_>, &mut Plan) -> Planned;

/// The fields of `Query` with their planners.
const QUERY: &[(&str, PlanRoot)] = &[
    ("package", package),
    ("packages", packages),
    ("packagesByPurl", packages_by_purl),
    ("publications", publications),
    ("search", search),
    ("node", node),
    ("registry", registry),
    ("__schema", meta),
    ("__type", meta),
    ("__typename", typename),
];

pub(super) struct Planner<'a, 'v> {
    pub(super) collector: Collector<'a, 'v>,
    pub(super) limits: &'a Limits,
    pub(super) registry: &'a RegistrySettings,
}

impl<'a> Planner<'a, '_> {
    pub(super) fn plan(&self, operation: &'a Operation) -> Result<Plan, QueryError> {
        let mut plan = Plan::default();
        match self.collector.collect("Query", [&operation.selection_set]) {
            Ok(groups) => {
                for group in groups {
                    self.root(&group, &mut plan)?;
                }
            }
            Err(error) => plan.broken = Some(error),
        }
        self.check(&plan)?;
        plan.with_strongest = self.collector.with_strongest.get();
        plan.values = match plan.meta {
            // An introspection is built as a tree before it is written, and nothing counts its lists.
            Some(_) => u64::MAX,
            None => plan.asked.saturating_mul(self.collector.values.get()),
        };
        Ok(plan)
    }

    fn root(&self, group: &Group<'a>, plan: &mut Plan) -> Result<(), QueryError> {
        let known = QUERY.iter().find(|(name, _)| *name == group.name());
        // The validation lets no other name pass.
        let Some((_, planned)) = known else { return Ok(()) };
        let field = group.field();
        let error = |message: String| {
            QueryError::new(Code::BadUserInput, message)
                .at(field.name.location(), &self.collector.document.sources)
        };
        let (keys, pages) = (plan.keys.len(), plan.pages.len());
        let write = match planned(self, group, plan) {
            Ok(write) => write,
            Err(FieldError::Refused(message)) => return Err(error(message)),
            Err(FieldError::Null(message)) => {
                let path = vec![Segment::Field(group.key.clone())];
                let error = QueryError { path, ..error(message) };
                Box::new(move |writer: &mut Writer<'_>, _: &Found<'_>| writer.fail(&error)) as _
            }
        };
        if self.collector.with_history.take() {
            plan.with_history.push(WithHistory::Keys(keys..plan.keys.len()));
            plan.with_history.extend((pages..plan.pages.len()).map(WithHistory::Page));
        }
        let is_nullable = !field.ty().is_non_null();
        plan.roots.push(Root { key: group.key.clone(), is_nullable, write });
        Ok(())
    }

    fn check(&self, plan: &Plan) -> Result<(), QueryError> {
        let (pages, searches) = (plan.pages.len() as u64, plan.searches.len() as u64);
        for (limit, actual, maximum, what) in [
            ("limits.max_refs", plan.asked, self.limits.max_refs, "asks for {} publications"),
            ("limits.max_pages", pages, self.limits.max_pages, "has {} `publications` fields"),
            ("limits.max_pages", searches, self.limits.max_pages, "has {} `search` fields"),
        ] {
            let maximum = u64::from(maximum);
            if actual > maximum {
                let what = what.replace("{}", &actual.to_string());
                let message = format!(
                    "the operation {what}, at most {maximum} are answered in one operation ({limit})"
                );
                return Err(QueryError::limit(limit, maximum, Some(actual), message));
            }
        }
        Ok(())
    }

    fn arguments(&self, group: &Group<'a>) -> Arguments<'_> {
        Arguments::of(group.field(), self.collector.variables)
    }

    /// The version that a purl names, if it belongs to this registry.
    fn by_purl(&self, text: &str) -> Option<PublicationId> {
        if text.len() > MAX_PURL {
            return None;
        }
        let purl = Purl::parse(text).ok()?;
        let is_ours = purl.ecosystem.eq_ignore_ascii_case(&self.registry.ecosystem)
            && purl.qualifier("vcs_url").is_none()
            && purl.qualifier("download_url").is_none()
            && purl.qualifier("repository_url").is_none_or(|url| self.registry.names(&url));
        PublicationId::new(&purl.name, &purl.version.filter(|_| is_ours)?).ok()
    }
}

impl Plan {
    /// Adds a key to the plan. Returns its index, or `None` when there is no key.
    fn slot(&mut self, id: Option<PublicationId>) -> Option<usize> {
        self.keys.push(id?);
        Some(self.keys.len() - 1)
    }

    /// Adds the keys of a list.
    fn slots(
        &mut self,
        ids: impl ExactSizeIterator<Item = Option<PublicationId>>,
    ) -> Vec<Option<usize>> {
        self.keys.reserve(ids.len());
        ids.map(|id| self.slot(id)).collect()
    }

    /// Counts the items of a list. Returns whether they are read: once the limit is exceeded the request is refused, and a
    /// document can name a variable of many items many times.
    fn reads(&mut self, planner: &Planner<'_, '_>, items: u64) -> bool {
        self.asked += items;
        self.asked <= u64::from(planner.limits.max_refs)
    }
}

/// The key of a reference. `None` for an invalid name, which has no record.
fn id(reference: &PackageRef<'_>) -> Option<PublicationId> {
    PublicationId::new(reference.name, reference.version).ok()
}

fn package(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    let arguments = planner.arguments(group);
    plan.asked += 1;
    let slot = plan.slot(id(&arguments.read()?));
    Ok(one(planner, group, slot))
}

fn node(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    let arguments = planner.arguments(group);
    let NodeById { id } = arguments.read()?;
    let canonical = |own: &PublicationId| Purl::is_canonical(id, &planner.registry.ecosystem, own);
    plan.asked += 1;
    let slot = plan.slot(planner.by_purl(id).filter(canonical));
    Ok(one(planner, group, slot))
}

fn one(planner: &Planner<'_, '_>, group: &Group<'_>, slot: Option<usize>) -> WriteRoot {
    let package = planner.collector.select(&PACKAGE, group);
    Box::new(move |writer, found| match found.row(slot) {
        Some(row) => package.write(writer, row),
        None => writer.null(),
    })
}

fn packages(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    let arguments = planner.arguments(group);
    let mut slots = Vec::new();
    if plan.reads(planner, arguments.length("refs")) {
        let Packages { refs } = arguments.read()?;
        slots = plan.slots(refs.iter().map(id));
    }
    Ok(many(planner, group, slots))
}

fn packages_by_purl(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    let arguments = planner.arguments(group);
    let mut slots = Vec::new();
    if plan.reads(planner, arguments.length("purls")) {
        let PackagesByPurl { purls } = arguments.read()?;
        slots = plan.slots(purls.iter().map(|purl| planner.by_purl(purl)));
    }
    Ok(many(planner, group, slots))
}

fn many(planner: &Planner<'_, '_>, group: &Group<'_>, slots: Vec<Option<usize>>) -> WriteRoot {
    let package = planner.collector.select_items(&PACKAGE, group);
    Box::new(move |writer, found| {
        writer.list(&slots, |writer, slot| match found.row(*slot) {
            Some(row) => writer.nullable(|writer| package.write(writer, row)),
            None => writer.null(),
        })
    })
}

fn publications(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    let arguments = planner.arguments(group);
    let Publications { first, after, filter, order } = arguments.read()?;
    let first = page_size(first)?;
    let not_ours =
        || FieldError::Refused("argument `after` is not a cursor of this service".into());
    let after = after.map(|text| cursor::decode(text).ok_or_else(not_ours)).transpose()?;
    let filter = condition(filter.unwrap_or_default()).map_err(FieldError::Refused)?;
    let filter = filter.map(|filter| Filter { order, ..filter });
    plan.asked += u64::from(first);
    plan.pages.push(Page { filter, after, first });
    let page = plan.pages.len() - 1;
    let connection = planner.collector.select(&CONNECTION, group);
    Ok(Box::new(move |writer, found| match found.fetched.pages.get(page) {
        Some(listed) => connection.write(writer, listed),
        None => writer.null(),
    }))
}

fn page_size(first: i32) -> Result<u32, FieldError> {
    let count = u32::try_from(first).ok().filter(|_| (1..=MAX_FIRST).contains(&first));
    count.ok_or_else(|| {
        FieldError::Refused(format!("argument `first` is {first}, it must be 1 to {MAX_FIRST}"))
    })
}

fn search(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    let arguments = planner.arguments(group);
    let Search { prefix, first, after } = arguments.read()?;
    let first = page_size(first)?;
    if !(1..=PackageName::MAX_BYTES).contains(&prefix.len()) {
        let message = format!("argument `prefix` must have 1 to {} bytes", PackageName::MAX_BYTES);
        return Err(FieldError::Refused(message));
    }
    plan.asked += u64::from(first);
    // No name has a control character. PostgreSQL refuses U+0000, which sorts before every other character.
    let prefix = (!prefix.contains(char::is_control)).then(|| prefix.to_owned());
    let after = after.map(beginning).and_then(|after| after.split('\0').next()).map(str::to_owned);
    plan.searches.push(NameSearch { prefix, after, first });
    let search = plan.searches.len() - 1;
    Ok(Box::new(move |writer, found| {
        let names = found.fetched.searches.get(search).into_iter().flatten();
        writer.list(names, |writer, name: &PackageName| {
            writer.text(name.as_str());
            Ok(())
        })
    }))
}

/// The condition of a filter. `None` for an invalid name or username, because no row has it.
fn condition(given: PublicationFilter<'_>) -> Result<Option<Filter>, String> {
    let time = |name: &str, text: Option<&str>| match text.map(Timestamp::parse).transpose() {
        Ok(time) => Ok(time),
        Err(error) => Err(format!("`{name}` of the filter is {error}")),
    };
    let created_after = time("createdAfter", given.created_after)?;
    let created_before = time("createdBefore", given.created_before)?;
    let name = given.name.map(PackageName::new).transpose();
    let username = given.username.map(Username::new).transpose();
    let (Ok(name), Ok(username)) = (name, username) else { return Ok(None) };
    Ok(Some(Filter {
        name,
        username,
        tor: given.tor,
        tfa: given.tfa,
        disputed: given.disputed,
        created_after,
        created_before,
        ..Filter::default()
    }))
}

fn registry(planner: &Planner<'_, '_>, group: &Group<'_>, _: &mut Plan) -> Planned {
    let registry = planner.collector.select(&REGISTRY, group);
    Ok(Box::new(move |writer, found| registry.write(writer, found.registry)))
}

fn typename(_: &Planner<'_, '_>, _: &Group<'_>, _: &mut Plan) -> Planned {
    Ok(Box::new(|writer, _| {
        writer.text("Query");
        Ok(())
    }))
}

/// Plans `__schema` and `__type`, which apollo-compiler answers.
fn meta(planner: &Planner<'_, '_>, group: &Group<'_>, plan: &mut Plan) -> Planned {
    for field in &group.fields {
        planner.collector.check_conditions(&field.selection_set).map_err(|error| error.message)?;
    }
    plan.meta = Some(planner.collector.variables.to_apollo());
    let key = group.key.clone();
    Ok(Box::new(move |writer, found| {
        let Some(value) = found.meta.and_then(|meta| meta.get(key.as_str())) else {
            return writer.null();
        };
        // Strings, numbers and lists always serialize.
        let _ = serde_json::to_writer(&mut writer.out, value);
        writer.check()
    }))
}
