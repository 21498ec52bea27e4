//! List: a customer list whose import is killed at each of its steps. Nothing of it is there, or all of it will be.

use std::path::Path;
use std::time::{Duration, Instant};

use opentab::internals::store::{Db, Page, Store, both};
use opentab_sandbox::Sandbox;

use crate::process::{Home, Server, options, serve_sandbox};

const ROWS: i64 = 6_000;
const PATIENCE: Duration = Duration::from_secs(300);

/// When the command is killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reading,
    Checking,
    Applying,
}

struct List {
    home: Home,
    store: Store,
}

impl List {
    async fn begin(folder: &Path, database: &str) -> List {
        let stripe = serve_sandbox(&Sandbox::new(options())).await;
        let home = Home::new(folder, database, &stripe).with("OPENTAB_LOG", "warn");
        home.create_key();
        let mut text = "external_id,name,currency\n".to_owned();
        (0..ROWS).for_each(|row| text += &format!("c{row},Customer {row},usd\n"));
        std::fs::write(folder.join("customers.csv"), text).unwrap();
        let store = Store { db: Db::open(&database.parse().unwrap()).await.unwrap() };
        List { home, store }
    }

    fn command(&self) -> std::process::Command {
        let mut command = self.home.command();
        command.args(["customers", "import", "customers.csv"]).stderr(self.home.log());
        command
    }

    async fn count(&self, sql: opentab::internals::store::Sql) -> i64 {
        let (count,): (i64,) = self.store.db.one(sql, ()).await.unwrap();
        count
    }

    async fn customers(&self) -> i64 {
        self.count(both("select count(*) from customer")).await
    }

    async fn has_come_to(&self, step: Step) -> bool {
        let of_newest = "select count(*) from customer_import_row
                         where import_id = (select max(id) from customer_import)";
        let staged = self.count(both(of_newest)).await;
        match step {
            Step::Reading => staged >= ROWS / 6,
            Step::Checking => staged >= ROWS,
            Step::Applying => self.customers().await > 0,
        }
    }

    /// Brings the list, and kills the process as soon as it has come so far; answers the state that it left.
    async fn bring_and_kill_at(&self, step: Step) -> String {
        let before = self.states().await.len();
        let process = Server::start(&mut self.command());
        let patience = Instant::now() + PATIENCE;
        while self.states().await.len() == before || !self.has_come_to(step).await {
            assert!(Instant::now() < patience, "it never came to {step:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.kill();
        self.states().await.remove(0)
    }

    /// Of every import, the newest first.
    async fn states(&self) -> Vec<String> {
        let page = Page { limit: 100, after: String::new(), before: String::new() };
        let all = self.store.customer_imports(&page).await.unwrap().0;
        all.into_iter().map(|import| import.state).collect()
    }
}

/// Kills it at every step, brings the list once more, and judges.
pub(crate) async fn kill_and_bring_again(folder: &Path, database: &str) {
    let list = List::begin(folder, database).await;
    for step in [Step::Reading, Step::Checking, Step::Applying] {
        let left = list.bring_and_kill_at(step).await;
        let there = list.customers().await;
        // Only what was found to be good as a whole may be there in part: the rest of it follows.
        assert!(there == 0 || left != "reading", "{there} customers of a list that is {left}");
        println!("killed at {step:?}: {left}, {there} of {ROWS} customers are there");
    }
    assert!(list.command().status().unwrap().success(), "the same file again");
    assert_eq!(list.customers().await, ROWS);
    // A server takes up what dead processes left of it, and finds nothing to change.
    let server = list.home.serve(0);
    list.home.up().await;
    let patience = Instant::now() + PATIENCE;
    while list.states().await.contains(&"applying".to_owned()) {
        assert!(Instant::now() < patience, "what was applied in part never came to its end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(server);
    assert_eq!(list.customers().await, ROWS);
    let created = both("select count(*) from audit where action = 'customer.created'");
    assert_eq!(list.count(created).await, ROWS, "each is created once");
    assert_eq!(list.count(both("select count(*) from invoice")).await, ROWS);
    assert_eq!(list.count(both("select cast(sum(error_count) as bigint) from customer_import")).await, 0);
}
