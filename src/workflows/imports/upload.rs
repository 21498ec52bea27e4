//! Upload: read a list as it arrives, piece by piece, and set its rows down.

use super::check::{self, Found};
use super::{ImportOptions, MOST_ROWS, STAGED, TOO_MANY_ROWS};
use crate::app::App;
use crate::clock::prefix;
use crate::store::{CustomerImport, ImportRow};
use crate::workflows::WorkflowError;
use crate::workflows::by::By;
use opentab_input::csv;
use opentab_input::customer_list::{Fault, Header};

/// A list on its way in.
pub struct Upload<'a> {
    app: &'a App,
    import: CustomerImport,
    keep: bool,
    reader: csv::Reader,
    taken: Taken,
}

/// What has been read and is not set down yet.
struct Taken {
    maps: Vec<(String, String)>,
    header: Option<Header>,
    batch: Vec<ImportRow>,
    rows: i64,
    found: Found,
    /// Nothing further can be read.
    over: bool,
    /// There are so many rows that none of them is looked at.
    too_many: bool,
}

impl Taken {
    fn row(&mut self, row: &csv::Row) {
        let Some(header) = &self.header else {
            match Header::read(row, &self.maps) {
                Ok(header) => self.header = Some(header),
                Err(fault) => {
                    self.over = true;
                    self.found.faults(vec![fault]);
                }
            }
            return;
        };
        if self.over {
            return;
        }
        self.rows += 1;
        if self.rows > MOST_ROWS {
            (self.over, self.too_many) = (true, true);
            let detail = format!("the file has more than {MOST_ROWS} rows");
            return self.found = Found::only(Fault::new(row.line, None, TOO_MANY_ROWS, detail));
        }
        match header.line(row) {
            Ok((external_id, wanted)) => self.batch.push(ImportRow {
                line: i64::try_from(row.line).unwrap_or(i64::MAX),
                external_id,
                wanted: serde_json::to_string(&wanted).unwrap_or_default(),
            }),
            Err(faults) => self.found.faults(faults),
        }
    }
}

impl<'a> Upload<'a> {
    /// Begins an import.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn begin(app: &'a App, options: ImportOptions, by: &By) -> Result<Upload<'a>, WorkflowError> {
        let now = app.clock.now_ms();
        let import = CustomerImport {
            id: app.ids.new_id(prefix::IMPORT),
            file_name: options.file_name,
            actor: by.actor.clone(),
            month: options.month.unwrap_or_default(),
            dry_run: options.dry_run,
            state: "reading".to_owned(),
            row_count: 0,
            created_count: 0,
            updated_count: 0,
            unchanged_count: 0,
            error_count: 0,
            applied_count: 0,
            report: "{}".to_owned(),
            created_at: now,
            updated_at: now,
            finished_at: None,
        };
        let mut tx = app.store.db.begin().await?;
        tx.begin_import(&import).await?;
        tx.commit().await?;
        let taken = Taken {
            maps: options.maps,
            header: None,
            batch: Vec::new(),
            rows: 0,
            found: Found::default(),
            over: false,
            too_many: false,
        };
        Ok(Upload { app, import, keep: options.keep, reader: csv::Reader::default(), taken })
    }

    /// Takes the next piece of the file. False: nothing further can be read, so nothing further need be sent.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn feed(&mut self, piece: &[u8]) -> Result<bool, WorkflowError> {
        // So that what one piece holds is bounded, whatever its size.
        for piece in piece.chunks(64 * 1024) {
            if self.taken.over {
                return Ok(false);
            }
            let taken = &mut self.taken;
            let read = self.reader.feed(piece, &mut |row| {
                taken.row(row);
                Ok(())
            });
            self.read(read);
            if self.taken.batch.len() >= STAGED {
                self.set_down().await?;
            }
        }
        Ok(!self.taken.over)
    }

    /// It broke off: what is set down of it is forgotten.
    ///
    /// # Errors
    /// The database did not answer.
    pub(crate) async fn give_up(self) -> Result<(), WorkflowError> {
        let mut tx = self.app.store.db.begin().await?;
        tx.give_up_import(&self.import.id, self.app.clock.now_ms()).await?;
        tx.drop_import_rows(&self.import.id).await?;
        Ok(tx.commit().await?)
    }

    /// Rows so far.
    pub fn rows(&self) -> i64 {
        self.taken.rows
    }

    fn read(&mut self, read: Result<(), csv::Unreadable>) {
        if let Err(why) = read {
            self.taken.over = true;
            self.taken.found.faults(vec![Fault::new(why.line, None, "unreadable", why.detail)]);
        }
    }

    async fn set_down(&mut self) -> Result<(), WorkflowError> {
        let batch = std::mem::take(&mut self.taken.batch);
        for rows in batch.chunks(STAGED) {
            self.app.store.stage_import_rows(&self.import.id, rows).await?;
        }
        Ok(())
    }

    /// The file is over: checks it as a whole, and says what comes of it. Where it is `applying`, [`super::carry_on`]
    /// applies it; so does a job, should whoever asked be gone.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn check(mut self) -> Result<CustomerImport, WorkflowError> {
        if !self.taken.over {
            let taken = &mut self.taken;
            let read = self.reader.end(&mut |row| {
                taken.row(row);
                Ok(())
            });
            self.read(read);
        }
        self.set_down().await?;
        let Taken { rows, mut found, too_many, .. } = self.taken;
        if found.errors == 0 && rows == 0 {
            let detail = "the file has no rows below its header";
            found.faults(vec![Fault::new(1, None, "no_rows", detail)]);
        }
        self.import.row_count = rows;
        if too_many {
            found.decide(self.app, self.import, self.keep, 0).await
        } else {
            check::check(self.app, self.import, found, self.keep).await
        }
    }
}
