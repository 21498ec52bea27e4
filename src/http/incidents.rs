//! Incidents over HTTP.

use axum::Json as Answer;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{Path, Query, expect_id};
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::prefix;
use crate::workflows::by::By;
use crate::workflows::console::needs::{self, Listed};
use crate::workflows::{notice, remedy};

/// What a human should look at: one for each cause, however often it was seen; or a job, event, charge or endpoint that
/// waits without one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Incident)]
pub(crate) struct IncidentView {
    #[schema(example = "ot_inc_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// `incident`; or `waiting` for what waits without one: its id is that of what waits, and it leaves the list with that.
    #[schema(example = "incident")]
    pub object: &'static str,
    /// What kind of thing happened.
    #[schema(example = "draft_deleted")]
    pub kind: String,
    /// The id of what it happened to.
    pub subject: String,
    /// What happened and what to do.
    pub message: String,
    /// How often it was seen.
    pub seen: i64,
    pub opened_at: DateTime<Utc>,
    pub(crate) last_seen_at: DateTime<Utc>,
    /// When it was closed; null while it is open.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What to do about it, in a sentence or two.
    pub advice: Option<&'static str>,
    /// What can be pressed, the best first.
    pub actions: Vec<ActionView>,
}

/// What a person can do about an incident.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IncidentAction)]
pub(crate) struct ActionView {
    #[schema(example = "resend")]
    pub action: &'static str,
    /// What it does.
    pub does: &'static str,
    /// The request that does it; null where only the console and the command line can.
    #[schema(example = "POST /v1/emails/ot_eml_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A/resend")]
    pub request: Option<String>,
    /// The command that does it; null where there is none.
    #[schema(example = "opentab emails resend ot_eml_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub command: Option<String>,
}

impl From<needs::Way> for ActionView {
    fn from(way: needs::Way) -> ActionView {
        let (action, does) = (way.action.as_str(), way.action.does());
        ActionView { action, does, request: way.request, command: way.command }
    }
}

impl From<Listed> for IncidentView {
    fn from(Listed { object, incident, ways }: Listed) -> IncidentView {
        IncidentView {
            advice: remedy::remedy(&incident.kind).map(|remedy| remedy.advice),
            actions: ways.into_iter().map(ActionView::from).collect(),
            id: incident.id,
            object,
            kind: incident.kind,
            subject: incident.subject,
            message: incident.message,
            seen: incident.seen,
            opened_at: incident.opened_at,
            last_seen_at: incident.last_seen_at,
            resolved_at: incident.resolved_at,
        }
    }
}

/// List what needs a human
///
/// Every open incident, and every job that gave up, event in quarantine, charge that nobody tries and endpoint with given-up
/// deliveries that waits without one, of each kind at most fifty: all that the console shows. By id, so of each kind of
/// thing the newest first.
#[utoipa::path(get, path = "/v1/incidents", tag = "Incidents", params(Paging),
    responses((status = 200, body = List<IncidentView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(paging): Query<Paging>,
) -> Result<Answer<List<IncidentView>>, Problem> {
    let (rows, has_more) = needs::listed(&app, &paging.page("")?).await?;
    let views = rows.into_iter().map(IncidentView::from).collect();
    Ok(Answer(List::new("/v1/incidents", (views, has_more))))
}

/// Resolve an incident
///
/// Closes it, once somebody has seen to it. One that is closed already stays as it is; where the cause is still there,
/// another incident opens.
#[utoipa::path(post, path = "/v1/incidents/{id}/resolve", tag = "Incidents",
    params(("id" = String, Path, description = "`ot_inc_…`")), responses((status = 200, body = IncidentView)))]
pub(crate) async fn resolve(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<Answer<IncidentView>, Problem> {
    expect_id(&id, prefix::INCIDENT)?;
    Ok(Answer(Listed::from(notice::resolve(&app, &id, &by).await?).into()))
}
