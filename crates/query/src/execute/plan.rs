//! From selections and arguments to what is asked of the store and what is written: made before any work, so that a
//! limit is enforced before any work.

use apollo_compiler::executable::{Field, Operation};
use model::{PackageName, PublicationId, Purl, Timestamp, Username};
use store::{Cursor, Filter, Flag};

use super::arguments::{Given, argument};
use super::collect::{Collector, Group};
use super::cursor;
use super::shape::{ConnectionField, PackageField, Shape};
use crate::config::Limits;
use crate::error::{Code, Exceeded, QueryError};

/// The largest page (crates/query/README.md, Pages).
const MAX_FIRST: i64 = 100;

/// A request, planned.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub(super) roots: Vec<Root<'a>>,
    /// The keys of all fields together: one statement.
    pub(super) keys: Vec<PublicationId>,
    pub(super) pages: Vec<Page>,
    /// Publications asked for: keys, also those that cannot be names, and rows of pages.
    pub(super) asked: u64,
    /// Whether the introspection has to run.
    pub(super) has_meta: bool,
    /// Of fields that became null.
    pub(super) errors: Vec<QueryError>,
}

/// A field of the answer's `data`.
#[derive(Debug)]
pub(super) struct Root<'a> {
    pub(super) key: &'a str,
    pub(super) value: RootValue,
}

/// Where a row of the answer comes from: the place in `keys`, none where the name cannot be one.
pub(super) type Slot = Option<usize>;

#[derive(Debug)]
pub(super) enum RootValue {
    Typename,
    /// `__schema` and `__type`.
    Meta,
    One(Slot, Shape<PackageField>),
    Many(Vec<Slot>, Shape<PackageField>),
    Page(usize, Shape<ConnectionField>),
    /// Null after an error; `data` with it where the field must not be null.
    Nulled {
        non_null: bool,
    },
}

/// A page of `publications`.
#[derive(Debug)]
pub(super) struct Page {
    /// None where no row can pass.
    pub(super) filter: Option<Filter>,
    pub(super) after: Option<Cursor>,
    /// 1 to 100.
    pub(super) first: u32,
}

/// A null where a value must be: an error within `data`, in the path of its field.
struct UnexpectedNull(&'static str);

pub(super) struct Planner<'a> {
    pub(super) collector: Collector<'a>,
    pub(super) limits: &'a Limits,
    pub(super) ecosystem: &'a str,
}

impl<'a> Planner<'a> {
    pub(super) fn plan(&self, operation: &'a Operation) -> Result<Plan<'a>, QueryError> {
        let mut plan = Plan::default();
        for group in self.collector.collect("Query", [&operation.selection_set]) {
            let value = match group.name() {
                "__typename" => RootValue::Typename,
                "__schema" | "__type" => {
                    plan.has_meta = true;
                    RootValue::Meta
                }
                _ => self.field(&group, &mut plan)?,
            };
            plan.roots.push(Root { key: group.key, value });
        }
        self.check(&plan)?;
        Ok(plan)
    }

    fn field(&self, group: &Group<'a>, plan: &mut Plan<'a>) -> Result<RootValue, QueryError> {
        let field = group.field();
        let planned = match group.name() {
            "package" => self
                .one(field, plan)
                .map(|slot| RootValue::One(slot, self.collector.package(group))),
            "packages" => self
                .many(field, "refs", plan, reference)
                .map(|slots| RootValue::Many(slots, self.collector.package(group))),
            "packagesByPurl" => self
                .many(field, "purls", plan, by_purl)
                .map(|slots| RootValue::Many(slots, self.collector.package(group))),
            _ => match self.page(field)? {
                Ok(page) => {
                    plan.asked += u64::from(page.first);
                    plan.pages.push(page);
                    let page = plan.pages.len() - 1;
                    Ok(RootValue::Page(page, self.collector.connection(group)))
                }
                Err(null) => Err(null),
            },
        };
        Ok(planned.unwrap_or_else(|UnexpectedNull(what)| {
            let message = format!("{what} must not be null");
            let error = QueryError::new(Code::BadUserInput, message)
                .at(field.name.location(), &self.collector.document.sources)
                .under(group.key);
            plan.errors.push(error);
            RootValue::Nulled { non_null: field.ty().is_non_null() }
        }))
    }

    fn one(&self, field: &'a Field, plan: &mut Plan<'a>) -> Result<Slot, UnexpectedNull> {
        let text = |name| argument(field, name, self.collector.variables).as_str();
        let name = text("name").ok_or(UnexpectedNull("argument `name`"))?;
        let version = text("version").ok_or(UnexpectedNull("argument `version`"))?;
        plan.asked += 1;
        Ok(plan.slot(PublicationId::new(name, version).ok()))
    }

    /// The keys of a list. Where they are too many already, they are counted and not kept.
    fn many(
        &self,
        field: &'a Field,
        name: &'static str,
        plan: &mut Plan<'a>,
        read: fn(&Self, Given<'a>) -> Result<Option<PublicationId>, UnexpectedNull>,
    ) -> Result<Vec<Slot>, UnexpectedNull> {
        let list = argument(field, name, self.collector.variables);
        if matches!(list, Given::Absent | Given::Null) {
            return Err(UnexpectedNull("the list"));
        }
        plan.asked += list.length() as u64;
        if plan.asked > u64::from(self.limits.max_refs) {
            return Ok(Vec::new());
        }
        plan.keys.reserve(list.length());
        list.items(self.collector.variables).map(|item| Ok(plan.slot(read(self, item)?))).collect()
    }

    /// Two kinds of trouble: a wrong value refuses the request, an unexpected null makes the field null.
    fn page(&self, field: &'a Field) -> Result<Result<Page, UnexpectedNull>, QueryError> {
        let variables = self.collector.variables;
        let wrong = |message: String| {
            QueryError::new(Code::BadUserInput, message)
                .at(field.name.location(), &self.collector.document.sources)
        };
        let Some(first) = argument(field, "first", variables).as_int() else {
            return Ok(Err(UnexpectedNull("argument `first`")));
        };
        let count = u32::try_from(first).ok().filter(|_| (1..=MAX_FIRST).contains(&first));
        let Some(first) = count else {
            return Err(wrong(format!("argument `first` is {first}, it must be 1 to {MAX_FIRST}")));
        };
        let after = match argument(field, "after", variables).as_str() {
            None => None,
            Some(text) => Some(
                cursor::decode(text)
                    .ok_or_else(|| wrong("argument `after` is no cursor of this service".into()))?,
            ),
        };
        let filter = self.filter(argument(field, "filter", variables)).map_err(wrong)?;
        Ok(Ok(Page { filter, after, first }))
    }

    /// `None` for a name or username that can be none: no row has it.
    fn filter(&self, given: Given<'a>) -> Result<Option<Filter>, String> {
        let part = |name: &'static str| given.field(name, self.collector.variables);
        let time = |name: &'static str| match part(name).as_str() {
            None => Ok(None),
            Some(text) => Timestamp::parse(text)
                .map(Some)
                .map_err(|error| format!("`{name}` of the filter is {error}")),
        };
        let created_after = time("createdAfter")?;
        let created_before = time("createdBefore")?;
        let name = part("name").as_str().map(PackageName::new).transpose();
        let username = part("username").as_str().map(Username::new).transpose();
        let (Ok(name), Ok(username)) = (name, username) else { return Ok(None) };
        Ok(Some(Filter {
            name,
            username,
            tor: part("tor").as_str().and_then(flag),
            tfa: part("tfa").as_str().and_then(flag),
            disputed: part("disputed").as_bool(),
            created_after,
            created_before,
            order: store::Order::NewestFirst,
        }))
    }

    fn check(&self, plan: &Plan<'a>) -> Result<(), QueryError> {
        let maximum = u64::from(self.limits.max_refs);
        if plan.asked > maximum {
            let asked = plan.asked;
            let exceeded = Exceeded { limit: "limits.max_refs", maximum, actual: Some(asked) };
            let message = format!(
                "the operation asks for {asked} publications, at most {maximum} are answered in one operation (limits.max_refs)"
            );
            return Err(QueryError::limit(exceeded, message));
        }
        let maximum = u64::from(self.limits.max_pages);
        let pages = plan.pages.len() as u64;
        if pages > maximum {
            let exceeded = Exceeded { limit: "limits.max_pages", maximum, actual: Some(pages) };
            let message = format!(
                "the operation has {pages} `publications` fields, at most {maximum} are answered in one operation (limits.max_pages)"
            );
            return Err(QueryError::limit(exceeded, message));
        }
        Ok(())
    }
}

impl Plan<'_> {
    fn slot(&mut self, id: Option<PublicationId>) -> Slot {
        self.keys.push(id?);
        Some(self.keys.len() - 1)
    }
}

/// A `PackageRef`. What cannot be a name has no record.
fn reference<'a>(
    planner: &Planner<'a>,
    item: Given<'a>,
) -> Result<Option<PublicationId>, UnexpectedNull> {
    let text = |name| item.field(name, planner.collector.variables).as_str();
    let name = text("name").ok_or(UnexpectedNull("`name` of a package"))?;
    let version = text("version").ok_or(UnexpectedNull("`version` of a package"))?;
    Ok(PublicationId::new(name, version).ok())
}

/// A purl. One that is malformed, without a version, or of another ecosystem has no record.
fn by_purl<'a>(
    planner: &Planner<'a>,
    item: Given<'a>,
) -> Result<Option<PublicationId>, UnexpectedNull> {
    let text = item.as_str().ok_or(UnexpectedNull("a purl"))?;
    let Ok(purl) = Purl::parse(text) else { return Ok(None) };
    if !purl.ecosystem.eq_ignore_ascii_case(planner.ecosystem) {
        return Ok(None);
    }
    Ok(purl.version.and_then(|version| PublicationId::new(&purl.name, &version).ok()))
}

fn flag(word: &str) -> Option<Flag> {
    match word {
        "YES" => Some(Flag::Yes),
        "NO" => Some(Flag::No),
        "UNKNOWN" => Some(Flag::Unknown),
        _ => None,
    }
}
