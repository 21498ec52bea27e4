//! Customer lists on the console: choose a file, look at what it would change, and say yes to exactly that.

use axum::Extension;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{Multipart, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::response::Response;
use tokio::time::timeout;

use super::invoices::slice;
use super::{go_to, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::check::check_month;
use crate::http::extract::{FromQuery, Limits, Pairs, Path, Query, expect_id, shown};
use crate::http::kind;
use crate::http::problem::Problem;
use crate::pages::console::rendered;
use crate::pages::imports::{ImportPage, ImportsPage};
use crate::store::Page;
use crate::workflows::by::By;
use crate::workflows::console::imports as sheets;
use crate::workflows::imports::{ImportOptions, Upload, confirm};
use opentab_input::customer_list::mapping;
use opentab_input::fields::bad_characters;

const TAB: &str = "/console/import";
/// The most bytes of a field that is no file.
const LONGEST_FIELD: usize = 10_000;

/// Which of the lists that were brought.
#[derive(Debug)]
pub(crate) struct ImportsQuery(Page);

impl FromQuery for ImportsQuery {
    fn from_query(pairs: &mut Pairs) -> Result<ImportsQuery, Problem> {
        Ok(ImportsQuery(slice(pairs, prefix::IMPORT)?))
    }
}

/// The form, and the lists that were brought.
pub(crate) async fn imports(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(ImportsQuery(page)): Query<ImportsQuery>,
) -> Result<Response, Problem> {
    let rows = sheets::imports(&app, &page).await?;
    let shell = shell(&app, &key, TAB, None);
    Ok(html(StatusCode::OK, rendered(&ImportsPage { shell, rows: &rows })))
}

/// Whether what was shown did not hold any more when somebody said yes to it.
#[derive(Debug)]
pub(crate) struct ImportQuery {
    changed: bool,
}

impl FromQuery for ImportQuery {
    fn from_query(pairs: &mut Pairs) -> Result<ImportQuery, Problem> {
        Ok(ImportQuery { changed: pairs.flag("changed")?.unwrap_or(false) })
    }
}

/// One list: what it would change, or what became of it.
pub(crate) async fn import(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<ImportQuery>,
) -> Result<Response, Problem> {
    expect_id(&id, prefix::IMPORT)?;
    let missing = || Problem::not_found("There is no such customer list.");
    let sheet = sheets::import(&app, &id).await?.ok_or_else(missing)?;
    let shell = shell(&app, &key, TAB, None);
    let changed = query.changed && sheet.line.waits;
    Ok(html(StatusCode::OK, rendered(&ImportPage { shell, sheet: &sheet, changed })))
}

/// Takes a file in, checks it, and leads to what it would change. Nothing is changed yet.
pub(crate) async fn upload(
    State(app): State<App>,
    by: By,
    Extension(limits): Extension<Limits>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, Problem> {
    let form = form
        .map_err(|_| Problem::new(&kind::UNSUPPORTED_MEDIA_TYPE, "Send the file as the page's form does."))?;
    let id = take(&app, &by, form, &limits).await?;
    Ok(go_to(&format!("{TAB}/{id}")))
}

/// The fields come first and the file last, as the form has them: it is read as it arrives.
async fn take(app: &App, by: &By, mut form: Multipart, limits: &Limits) -> Result<String, Problem> {
    let mut options = ImportOptions { dry_run: true, keep: true, ..ImportOptions::default() };
    while let Some(field) = in_time(limits, form.next_field()).await? {
        match field.name().unwrap_or("").to_owned().as_str() {
            "month" => options.month = month(&text(field, limits).await?)?,
            "map" => options.maps = maps(&text(field, limits).await?)?,
            "file" => {
                options.file_name = file_name(field.file_name());
                return file(app, by, options, field, limits).await;
            }
            other => {
                return Err(Problem::invalid(shown(other), "unknown_field", "there is no such field"));
            }
        }
    }
    Err(Problem::invalid("file", "missing_field", "choose a file"))
}

async fn file(
    app: &App,
    by: &By,
    options: ImportOptions,
    mut field: Field<'_>,
    limits: &Limits,
) -> Result<String, Problem> {
    let mut upload = Upload::begin(app, options, by).await?;
    if let Err(problem) = receive(&mut upload, &mut field, limits).await {
        upload.give_up().await?;
        return Err(problem);
    }
    Ok(upload.check().await?.id)
}

async fn receive(upload: &mut Upload<'_>, field: &mut Field<'_>, limits: &Limits) -> Result<(), Problem> {
    let (mut bytes, mut readable) = (0_u64, true);
    while let Some(piece) = in_time(limits, field.chunk()).await? {
        bytes += piece.len() as u64;
        if bytes > limits.upload_bytes {
            let detail = format!("The file has more than {} bytes.", limits.upload_bytes);
            return Err(closing(Problem::new(&kind::PAYLOAD_TOO_LARGE, detail)));
        }
        // What cannot be read any more is taken in all the same, so that the browser gets to show why.
        if readable {
            readable = upload.feed(&piece).await?;
        }
    }
    Ok(())
}

async fn text(mut field: Field<'_>, limits: &Limits) -> Result<String, Problem> {
    let name = field.name().unwrap_or("").to_owned();
    let mut bytes = Vec::new();
    while let Some(piece) = in_time(limits, field.chunk()).await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LONGEST_FIELD {
            return Err(Problem::invalid(name, "too_long", "is too long"));
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) if bad_characters(text.trim()).is_none() => Ok(text.trim().to_owned()),
        _ => Err(Problem::field(&kind::INVALID_CHARACTERS, name, "invalid_characters", "must be plain text")),
    }
}

fn month(text: &str) -> Result<Option<String>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    check_month("month", text)?;
    Ok(Some(text.to_owned()))
}

fn maps(text: &str) -> Result<Vec<(String, String)>, Problem> {
    let parts = text.split(['\n', ',']).map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(mapping)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| Problem::invalid("map", "invalid_mapping", why))
}

/// What people called it, as far as it can be shown.
fn file_name(name: Option<&str>) -> String {
    name.unwrap_or("").chars().filter(|c| !c.is_control()).take(200).collect()
}

async fn in_time<T>(
    limits: &Limits,
    reading: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, Problem> {
    let late = || {
        let detail = "The file stopped arriving, so the server stopped waiting.";
        closing(Problem::new(&kind::REQUEST_TIMEOUT, detail))
    };
    let broken = |_| closing(Problem::new(&kind::CSV_INVALID, "The form broke off, or cannot be read."));
    timeout(limits.body_pause, reading).await.map_err(|_| late())?.map_err(broken)
}

/// What is left of the body is not read, so the connection cannot carry another request.
fn closing(problem: Problem) -> Problem {
    problem.header(CONNECTION, HeaderValue::from_static("close"))
}

/// Somebody says yes to what they were shown.
pub(crate) async fn apply(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<Response, Problem> {
    expect_id(&id, prefix::IMPORT)?;
    let import = confirm(&app, &id, &by).await?;
    let changed = if import.state == "checked" { "?changed=true" } else { "" };
    Ok(go_to(&format!("{TAB}/{id}{changed}")))
}
