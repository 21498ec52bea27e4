//! The console's first page, and its buttons.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{did, go_to, inside, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::check;
use crate::http::extract::{Form, FromQuery, Pairs, Query};
use crate::http::problem::Problem;
use crate::pages::console::{ConfirmPage, NeedsPage, rendered};
use crate::workflows::by::By;
use crate::workflows::console::press::press as carry_out;
use crate::workflows::console::{needs as found, one};
use crate::workflows::remedy::Action;

/// Where the first page begins.
#[derive(Debug)]
pub(crate) struct NeedsQuery {
    after: String,
    did: Option<Action>,
}

impl FromQuery for NeedsQuery {
    fn from_query(pairs: &mut Pairs) -> Result<NeedsQuery, Problem> {
        let after = pairs.id("after")?.filter(|id| id.starts_with(prefix::INCIDENT)).unwrap_or_default();
        Ok(NeedsQuery { after, did: did(pairs)? })
    }
}

/// What needs a human, and what to press.
pub(crate) async fn needs(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(query): Query<NeedsQuery>,
) -> Result<Response, Problem> {
    let needs = found::needs(&app, &query.after).await?;
    let open = app.store.count_incidents().await?;
    let shell = shell(&app, &key, super::HOME, query.did);
    Ok(html(StatusCode::OK, rendered(&NeedsPage { shell, needs: &needs, open, back: super::HOME })))
}

/// A button that was pressed.
#[derive(Debug)]
pub(crate) struct Pressed {
    action: Action,
    subject: String,
    /// The page that it stands on.
    back: String,
    confirmed: bool,
}

impl FromQuery for Pressed {
    fn from_query(pairs: &mut Pairs) -> Result<Pressed, Problem> {
        let name = pairs.one("action")?.unwrap_or_default();
        let action = name.parse().map_err(|()| {
            Problem::invalid("action", "invalid_value", "there is no such button in this version")
        })?;
        let subject = pairs.one("subject")?.unwrap_or_default();
        if !check::is_id(&subject) {
            return Err(Problem::invalid("subject", "invalid_id", check::ID_RULE));
        }
        let back = pairs.one("back")?.unwrap_or_default();
        Ok(Pressed { action, subject, back, confirmed: pairs.one("confirmed")?.as_deref() == Some("yes") })
    }
}

/// Does what a button says. What moves money is asked for a second time first.
pub(crate) async fn press(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    by: By,
    Form(pressed): Form<Pressed>,
) -> Result<Response, Problem> {
    let back = inside(&pressed.back);
    if pressed.action.is_confirmed() && !pressed.confirmed {
        let missing = || Problem::not_found("There is no such invoice.");
        let about = one::about(&app, pressed.action, &pressed.subject).await?.ok_or_else(missing)?;
        let (action, subject) = (pressed.action, pressed.subject.as_str());
        let shell = shell(&app, &key, "", None);
        return Ok(html(
            StatusCode::OK,
            rendered(&ConfirmPage { shell, action, subject, back, about: &about }),
        ));
    }
    carry_out(&app, pressed.action, &pressed.subject, &by).await?;
    // What came of a charge stands on its invoice.
    let to = if pressed.action.is_confirmed() {
        format!("/console/invoices/{}", pressed.subject)
    } else {
        back.split('?').next().unwrap_or(super::HOME).to_owned()
    };
    Ok(go_to(&format!("{to}?did={}", pressed.action.as_str())))
}
