//! Customer lists over HTTP: a CSV file in, streamed, all of it or nothing.

use std::io::Write;

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONNECTION, CONTENT_ENCODING, HeaderValue};
use chrono::{DateTime, Utc};
use flate2::write::MultiGzDecoder;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::check::check_month;
use super::extract::{
    FromQuery, Limits, Pairs, Path, Query, drain, expect_id, media_type, next_data, not_encoded, shown,
};
use super::kind;
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::CustomerImport;
use crate::workflows::by::By;
use crate::workflows::imports::{self, Change, FieldChange, ImportOptions, Upload, carry_on};
use opentab_input::customer_list::{Fault, mapping};

/// Where files are sent.
pub(super) const PATH: &str = "/v1/customers/import";
/// A list does not shrink to less than a hundredth; what does is made to fill a memory.
const DENSEST: u64 = 100;
/// So much is unpacked before that is looked at.
const UNSUSPICIOUS: u64 = 1024 * 1024;

/// A customer list that was brought.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CustomerImport)]
pub(crate) struct CustomerImportView {
    #[schema(example = "ot_imp_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `customer_import`.
    #[schema(example = "customer_import")]
    pub object: &'static str,
    pub file_name: String,
    /// Who brought it: an API key's id, or `operator`.
    pub by: String,
    /// The billing month that it counts for; null for the cycle that was running for each customer.
    #[schema(example = "2026-11")]
    pub month: Option<String>,
    /// Whether it was only checked.
    pub dry_run: bool,
    /// `reading`, `applying`, `done`, `checked` (a dry run), `refused` (nothing of it was stored) or `abandoned`.
    #[schema(example = "done")]
    pub state: String,
    pub rows: i64,
    pub created: i64,
    pub updated: i64,
    pub unchanged: i64,
    /// Lines with a fault.
    pub errors: i64,
    /// Rows that are applied so far.
    pub applied: i64,
    /// The first hundred.
    pub faults: Vec<FaultView>,
    /// The first hundred customers that are created or updated.
    pub changes: Vec<ChangeView>,
    pub created_at: DateTime<Utc>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

/// Why a line cannot be taken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CustomerImportFault)]
pub(crate) struct FaultView {
    /// From 1, the header among them.
    #[schema(example = 17)]
    pub line: u64,
    #[schema(example = "currency")]
    pub column: Option<String>,
    #[schema(example = "unknown_currency")]
    pub code: String,
    pub detail: String,
}

/// What a line makes of its customer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CustomerImportChange)]
pub(crate) struct ChangeView {
    pub line: u64,
    pub external_id: String,
    /// `created` or `updated`.
    #[schema(example = "updated")]
    pub outcome: String,
    /// What differs from before.
    pub fields: Vec<String>,
    /// The same with what it was and what it becomes; of a new customer what they begin with.
    pub values: Vec<FieldChangeView>,
}

/// What becomes of one field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CustomerImportFieldChange)]
pub(crate) struct FieldChangeView {
    #[schema(example = "email")]
    pub field: String,
    /// Null where there was nothing.
    pub before: Option<String>,
    /// Null where nothing is left.
    pub after: Option<String>,
}

impl From<Fault> for FaultView {
    fn from(fault: Fault) -> FaultView {
        let Fault { line, column, code, detail } = fault;
        FaultView { line, column, code, detail }
    }
}

impl From<Change> for ChangeView {
    fn from(change: Change) -> ChangeView {
        let Change { line, external_id, outcome, fields, values } = change;
        let values = values.into_iter().map(FieldChangeView::from).collect();
        ChangeView { line, external_id, outcome, fields, values }
    }
}

impl From<FieldChange> for FieldChangeView {
    fn from(change: FieldChange) -> FieldChangeView {
        let FieldChange { field, before, after } = change;
        FieldChangeView { field, before, after }
    }
}

impl From<CustomerImport> for CustomerImportView {
    fn from(import: CustomerImport) -> CustomerImportView {
        let report = imports::report(&import);
        CustomerImportView {
            id: import.id,
            object: "customer_import",
            file_name: import.file_name,
            by: import.actor,
            month: Some(import.month).filter(|month| !month.is_empty()),
            dry_run: import.dry_run,
            state: import.state,
            rows: import.row_count,
            created: import.created_count,
            updated: import.updated_count,
            unchanged: import.unchanged_count,
            errors: import.error_count,
            applied: import.applied_count,
            faults: report.faults.into_iter().map(FaultView::from).collect(),
            changes: report.changes.into_iter().map(ChangeView::from).collect(),
            created_at: from_ms(import.created_at),
            finished_at: import.finished_at.map(from_ms),
        }
    }
}

/// How to take a list in.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ImportQuery {
    /// Only check, and say what would change.
    #[param(value_type = Option<bool>)]
    dry_run: bool,
    /// The billing month that the list counts for, such as 2026-11; the running one if absent.
    #[param(value_type = Option<String>)]
    month: Option<String>,
    /// A name for the list of imports.
    #[param(value_type = Option<String>)]
    file_name: String,
    /// What one of your columns is called here, such as `E-mail=email`; `Notes=` passes one over. May be repeated.
    #[param(value_type = Option<Vec<String>>)]
    map: Vec<(String, String)>,
}

impl FromQuery for ImportQuery {
    fn from_query(pairs: &mut Pairs) -> Result<ImportQuery, Problem> {
        let month = pairs.one("month")?;
        month.as_deref().map(|text| check_month("month", text)).transpose()?;
        let maps = pairs.many("map")?;
        let maps = maps.iter().map(|text| mapping(text)).collect::<Result<Vec<_>, _>>();
        let file_name = pairs.one("file_name")?.unwrap_or_default();
        if file_name.chars().count() > 200 {
            return Err(Problem::invalid("file_name", "too_long", "may have at most 200 characters"));
        }
        Ok(ImportQuery {
            dry_run: pairs.flag("dry_run")?.unwrap_or(false),
            month,
            file_name,
            map: maps.map_err(|why| Problem::invalid("map", "invalid_mapping", why))?,
        })
    }
}

/// Import a customer list
///
/// A CSV file in UTF-8 with a header line, at most 1,000,000 rows and 512 MiB, also with `Content-Encoding: gzip`. Every
/// line names its customer by `external_id`. New ones are created and need `name` and `currency`; of others only what differs
/// is changed, and an empty cell changes nothing (`-` removes an `email`, `active_from` or `active_until`). Columns:
/// `external_id`, `name`, `email`, `currency`, `time_zone`, `anchor_day`, `collection_method`, `days_until_due`,
/// `stripe_customer_id`, `locale`, `active_from`, `active_until`, `prices` (ids or names, with `|` between them: what the
/// customer does not pay yet becomes a service; nothing ends), `services_from` (the first day of these; today if absent) and
/// `metadata.KEY`.
///
/// All of it or nothing: one faulty line refuses the file with its line number (422, the first hundred), too many rows refuse
/// it too (413), and nothing is stored.
/// The same file again changes nothing. Every customer that it names gets `last_imported_at`; with the setting
/// `OPENTAB_BILLED_CUSTOMERS=imported` only customers that a list has named for a billing cycle are billed for it.
#[utoipa::path(post, path = "/v1/customers/import", tag = "Customers", params(ImportQuery),
    request_body(content = String, content_type = "text/csv"), responses((status = 200, body = CustomerImportView)))]
pub(crate) async fn create(
    State(app): State<App>,
    Query(query): Query<ImportQuery>,
    by: By,
    request: Request,
) -> Result<Answer<CustomerImportView>, Problem> {
    let (parts, body) = request.into_parts();
    let limits = super::extract::limits_of(&parts);
    let mut unpacker = Unpacker::new(&parts.headers, &limits)?;
    let options = ImportOptions {
        file_name: query.file_name,
        dry_run: query.dry_run,
        keep: false,
        month: query.month,
        maps: query.map,
    };
    let mut upload = Upload::begin(&app, options, &by).await.map_err(Problem::from)?;
    if let Err(problem) = receive(&mut upload, body, &mut unpacker, &limits).await {
        upload.give_up().await.map_err(Problem::from)?;
        return Err(problem);
    }
    let import = upload.check().await.map_err(Problem::from)?;
    match import.state.as_str() {
        "applying" => Ok(Answer(carry_on(&app, &import.id, |_| {}).await.map_err(Problem::from)?.into())),
        "refused" => Err(refused(import)),
        _ => Ok(Answer(import.into())),
    }
}

async fn receive(
    upload: &mut Upload<'_>,
    mut body: Body,
    unpacker: &mut Unpacker,
    limits: &Limits,
) -> Result<(), Problem> {
    let mut readable = true;
    // What cannot be read any more is taken in all the same, within the limit, so that the client gets to read why.
    while let Some(data) = next_data(&mut body, limits).await? {
        for packed in data.chunks(4 * 1024) {
            let piece = match unpacker.unpack(packed) {
                Ok(piece) => piece,
                Err(problem) => {
                    drain(&mut body, limits).await;
                    return Err(problem);
                }
            };
            if readable {
                readable = upload.feed(&piece).await.map_err(Problem::from)?;
            }
        }
    }
    let last = unpacker.end()?;
    if readable {
        upload.feed(&last).await.map_err(Problem::from)?;
    }
    Ok(())
}

/// Every line at fault, the first hundred of them.
fn refused(import: CustomerImport) -> Problem {
    let faults = imports::report(&import).faults;
    if let Some(fault) = faults.iter().find(|fault| fault.code == imports::TOO_MANY_ROWS) {
        let detail = format!("Nothing was stored: {} ({}).", fault.detail, import.id);
        return Problem::new(&kind::PAYLOAD_TOO_LARGE, detail);
    }
    let problem = Problem::new(
        &kind::CSV_INVALID,
        format!("Nothing was stored: {} lines are at fault ({}).", import.error_count, import.id),
    );
    faults.into_iter().fold(problem, |problem, fault| {
        let at = match &fault.column {
            Some(column) => format!("line {}, {column}", fault.line),
            None => format!("line {}", fault.line),
        };
        problem.and(at, &fault.code, fault.detail)
    })
}

/// Unpacks a body, if it is packed, and holds it to its limit.
struct Unpacker {
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    packed: u64,
    unpacked: u64,
    most: u64,
}

impl Unpacker {
    fn new(headers: &HeaderMap, limits: &Limits) -> Result<Unpacker, Problem> {
        match media_type(headers).as_str() {
            "text/csv" | "application/csv" => {}
            "" => return Err(wrong_type("The request has no Content-Type; send `text/csv`.".to_owned())),
            other => {
                return Err(wrong_type(format!("The Content-Type is `{}`; send `text/csv`.", shown(other))));
            }
        }
        let gzip = headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
        if !gzip {
            not_encoded(headers)?;
        }
        let gzip = gzip.then(|| MultiGzDecoder::new(Vec::new()));
        Ok(Unpacker { gzip, packed: 0, unpacked: 0, most: limits.upload_bytes })
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Bytes, Problem> {
        let piece = match &mut self.gzip {
            None => Bytes::copy_from_slice(packed),
            Some(gzip) => {
                gzip.write_all(packed).and_then(|()| gzip.flush()).map_err(|_| not_gzip())?;
                std::mem::take(gzip.get_mut()).into()
            }
        };
        self.packed += packed.len() as u64;
        self.hold(piece)
    }

    /// What is left once the body is over, which has to be all of it: a list that was cut off is not a shorter one.
    fn end(&mut self) -> Result<Bytes, Problem> {
        let Some(gzip) = &mut self.gzip else { return Ok(Bytes::new()) };
        gzip.try_finish().map_err(|_| not_gzip())?;
        let piece = std::mem::take(gzip.get_mut()).into();
        self.hold(piece)
    }

    fn hold(&mut self, piece: Bytes) -> Result<Bytes, Problem> {
        self.unpacked += piece.len() as u64;
        let dense = self.unpacked > UNSUSPICIOUS && self.unpacked / self.packed.max(1) > DENSEST;
        if !(self.unpacked > self.most || dense) {
            Ok(piece)
        } else {
            let detail = format!("The file has more than {} bytes, or unpacks to too many.", self.most);
            let problem = Problem::new(&kind::PAYLOAD_TOO_LARGE, detail);
            Err(problem.header(CONNECTION, HeaderValue::from_static("close")))
        }
    }
}

fn wrong_type(detail: String) -> Problem {
    Problem::new(&kind::UNSUPPORTED_MEDIA_TYPE, detail)
}

fn not_gzip() -> Problem {
    let problem =
        Problem::new(&kind::CSV_INVALID, "The body is not whole gzip, as its Content-Encoding says.");
    problem.header(CONNECTION, HeaderValue::from_static("close"))
}

/// List customer imports
///
/// Also those that were refused, or only checked.
#[utoipa::path(get, path = "/v1/customers/imports", tag = "Customers", params(Paging),
    responses((status = 200, body = List<CustomerImportView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(paging): Query<Paging>,
) -> Result<Answer<List<CustomerImportView>>, Problem> {
    let (rows, has_more) = app.store.customer_imports(&paging.page(prefix::IMPORT)?).await?;
    let views = rows.into_iter().map(CustomerImportView::from).collect();
    Ok(Answer(List::new("/v1/customers/imports", (views, has_more))))
}

/// Retrieve a customer import
#[utoipa::path(get, path = "/v1/customers/imports/{id}", tag = "Customers",
    params(("id" = String, Path, description = "`ot_imp_…`")), responses((status = 200, body = CustomerImportView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(()): Query<()>,
) -> Result<Answer<CustomerImportView>, Problem> {
    expect_id(&id, prefix::IMPORT)?;
    let import = app.store.customer_import(&id).await?;
    let import = import.ok_or_else(|| Problem::not_found(format!("There is no import `{}`.", shown(&id))))?;
    Ok(Answer(import.into()))
}
