//! The scenarios themselves, one after another.

use chrono::Duration;

use super::Scenario;
use super::plans::*;
use super::steps::*;
use crate::story::{Plan, Story};
use opentab::internals::mailer::Outcome;
use opentab::internals::workflows::ask::SYNC;
use opentab::internals::workflows::charge::CHARGE;
use opentab::internals::workflows::receive::REACT;
use opentab_sandbox::{CardOutcome, Fault};

const NOTHING: &[(&str, &str)] = &[];
const OPENTAB_CHARGES: &[(&str, &str)] = &[("OPENTAB_COLLECTION", "opentab")];

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    scenario("first_usage_opens_a_draft", one, |story| {
        with_a_draft(story);
        Ok(())
    }),
    scenario("a_batch_is_sent_twice", one, |story| {
        let batch = uses(story, 0, 5);
        settle(story, 1);
        story.send(0, batch);
        settle(story, 1);
        Ok(())
    }),
    scenario("a_draft_changes", three_prices, |story| {
        with_a_draft(story);
        uses(story, 0, 12);
        settle(story, 1);
        Ok(())
    }),
    scenario("usage_is_taken_back", one, |story| {
        let at = story.world.now();
        story.consume(&[(0, 0, 9, at)]);
        settle(story, 1);
        story.consume(&[(0, 0, -9, at)]);
        settle(story, 1);
        Ok(())
    }),
    scenario("usage_goes_up_and_comes_back", one, |story| {
        let at = story.world.now();
        with_a_draft(story);
        story.consume(&[(0, 0, 4, at)]);
        settle(story, 1);
        story.consume(&[(0, 0, -4, at)]);
        settle(story, 1);
        story.consume(&[(0, 0, 4, at)]);
        settle(story, 1);
        Ok(())
    }),
    scenario("a_cycle_ends", one, used_and_closed),
    scenario("a_cycle_ends_with_a_due_date", sent, used_and_closed),
    scenario("nothing_was_used", metered, |story| {
        settle(story, 1);
        end_of_cycle(story);
        settle(story, 1);
        Ok(())
    }),
    scenario("usage_comes_late", one, |story| {
        let at = story.world.now();
        with_a_draft(story);
        end_of_cycle(story);
        settle(story, 2);
        story.consume(&[(0, 0, 7, at)]);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_finalizes_in_mid_cycle", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        uses(story, 0, 4);
        settle(story, 1);
        Ok(())
    }),
    scenario("somebody_deletes_the_draft", one, |story| {
        with_a_draft(story);
        story.delete_the_draft(0);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_edits_a_line", three_prices, |story| {
        with_a_draft(story);
        story.edit_a_line(0, 0, 77_700);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_removes_a_line_and_finalizes", three_prices, |story| {
        with_a_draft(story);
        let taken_off = story.remove_a_line(0, 0);
        story.finalize_by_hand(0);
        settle(story, 2);
        stays_off(story, taken_off);
        Ok(())
    }),
    scenario("somebody_adds_a_line", one, |story| {
        with_a_draft(story);
        story.add_a_foreign_line(0, 4_200);
        uses(story, 0, 6);
        settle(story, 2);
        end_of_cycle(story);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_voids_an_invoice", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        story.end_an_open_invoice(0, "void");
        settle(story, 1);
        Ok(())
    }),
    scenario("the_customer_is_deleted_and_linked_again", one, |story| {
        with_a_draft(story);
        story.delete_the_customer(0);
        settle(story, 2);
        story.link_anew(0);
        settle(story, 1);
        Ok(())
    }),
    scenario("every_webhook_is_lost", one, |story| {
        with_a_draft(story);
        lose_mail(story);
        story.finalize_by_hand(0);
        lose_mail(story);
        story.world.pass(Duration::hours(26));
        settle_without_mail(story);
        Ok(())
    }),
    scenario("nobody_hears_that_an_invoice_is_paid", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        story.end_an_open_invoice(0, "pay");
        lose_mail(story);
        settle_without_mail(story);
        Ok(())
    }),
    scenario("a_fee_begins_while_nobody_is_there", metered, |story| {
        settle(story, 1);
        let customer = &story.company.customers[0];
        let next = customer.next_cycle(customer.cycle_of(customer.day_of(story.world.now())));
        story.charge_a_fee(0, 4_900, next)?;
        settle(story, 1);
        story.kill(0);
        end_of_cycle(story);
        story.world.pass(Duration::days(80));
        settle(story, 4);
        Ok(())
    }),
    scenario("months_pass_while_nobody_is_there", one, |story| {
        with_a_draft(story);
        story.kill(0);
        story.world.pass(Duration::days(50));
        settle(story, 3);
        Ok(())
    }),
    scenario("the_highest_value_of_each_day_counts", peak, |story| {
        for (day, quantity) in [(0, 5), (0, 3), (1, 4)] {
            let at = story.world.now() - Duration::days(day);
            story.consume(&[(0, 1, quantity, at)]);
        }
        settle(story, 1);
        Ok(())
    }),
    scenario("nobody_hears_of_a_customer_for_two_days", one, |story| {
        unheard_for_two_days(story, "POST /v1/customers", |_| ());
        Ok(())
    }),
    scenario("nobody_hears_of_a_draft_for_two_days", one, |story| {
        unheard_for_two_days(story, "POST /v1/invoices", |_| ());
        Ok(())
    }),
    scenario("nobody_hears_of_a_line_for_two_days", one, |story| {
        settle(story, 1);
        unheard_for_two_days(story, "POST /v1/invoices/", |_| ());
        Ok(())
    }),
    scenario("somebody_finalizes_what_nobody_heard_of", one, |story| {
        with_a_draft(story);
        unheard_for_two_days(story, "POST /v1/invoices/", |story| story.finalize_by_hand(0));
        Ok(())
    }),
    scenario("a_failure_to_make_a_customer_is_stored", one, |story| {
        fails_and_is_stored(story, "POST /v1/customers");
        Ok(())
    }),
    scenario("a_failure_to_open_a_draft_is_stored", one, |story| {
        fails_and_is_stored(story, "POST /v1/invoices");
        Ok(())
    }),
    with("lines_go_in_calls_of_two", five_prices, &[("OPENTAB_LINES_PER_CALL", "2")], used_twice_and_closed),
    scenario("there_are_more_lines_than_an_answer_shows", twelve_prices, |story| {
        with_a_draft(story);
        uses(story, 0, 6);
        settle(story, 1);
        end_of_cycle(story);
        settle(story, 2);
        Ok(())
    }),
    with("lines_are_folded", five_prices, &[("OPENTAB_LINES_PER_INVOICE", "3")], used_twice_and_closed),
    Scenario {
        name: "two_replicas_work_at_once",
        plans: one,
        settings: NOTHING,
        processes: 2,
        tell: |story| {
            with_a_draft(story);
            end_of_cycle(story);
            for process in [0, 1] {
                story.tick(process);
            }
            in_turn(story);
            story.collect_mail();
            for (no, delivery) in std::mem::take(&mut story.mail).into_iter().enumerate() {
                story.deliver(no % 2, delivery);
            }
            for process in [0, 1] {
                story.work(process);
            }
            in_turn(story);
            settle(story, 1);
            Ok(())
        },
    },
    Scenario {
        name: "a_sleeper_wakes_after_a_takeover",
        plans: one,
        settings: NOTHING,
        processes: 2,
        tell: |story| {
            with_a_draft(story);
            end_of_cycle(story);
            story.tick(0);
            story.run_all();
            // One falls asleep over the second request that it would send, and another takes over.
            story.work(0);
            for _ in 0..24 {
                story.step(0);
            }
            story.world.pass(Duration::seconds(40));
            story.work(1);
            while story.world.actors() > 1 {
                story.step(1);
            }
            settle(story, 1);
            Ok(())
        },
    },
    with("an_invoice_is_charged", one, OPENTAB_CHARGES, |story| {
        with_a_card(story, CardOutcome::Succeeds);
        story.finalize_by_hand(0);
        settle(story, 2);
        Ok(())
    }),
    with("a_card_has_nothing_on_it_and_then_it_has", one, OPENTAB_CHARGES, |story| {
        with_a_card(story, CardOutcome::Declined("insufficient_funds"));
        story.finalize_by_hand(0);
        settle(story, 2);
        familiar(story, |story| {
            story.world.pass(Duration::hours(25));
            settle(story, 1);
        });
        story.put_a_card(0, CardOutcome::Succeeds);
        story.world.pass(Duration::hours(49));
        settle(story, 1);
        Ok(())
    }),
    with("somebody_is_suspended_and_then_pays", one, OPENTAB_CHARGES, |story| {
        with_a_card(story, CardOutcome::Declined("lost_card"));
        familiar(story, |story| {
            story.finalize_by_hand(0);
            settle(story, 1);
            story.world.pass(Duration::days(15));
        });
        settle(story, 1);
        story.end_an_open_invoice(0, "pay");
        settle(story, 1);
        Ok(())
    }),
    with("a_mail_server_takes_an_e_mail_and_says_nothing", one, OPENTAB_CHARGES, |story| {
        with_a_card(story, CardOutcome::Declined("lost_card"));
        story.world.office.mail.next_ends(Outcome::Unknown("no answer".to_owned()));
        familiar(story, |story| {
            story.finalize_by_hand(0);
            settle(story, 2);
        });
        story.world.pass(Duration::hours(2));
        settle(story, 1);
        Ok(())
    }),
    with("an_answer_to_a_charge_is_lost", one, OPENTAB_CHARGES, |story| {
        with_a_card(story, CardOutcome::Succeeds);
        story.world.sandbox.faults().next("POST /v1/invoices/{invoice}/pay", Fault::LoseAnswer);
        story.finalize_by_hand(0);
        settle(story, 1);
        lose_mail(story);
        settle(story, 2);
        Ok(())
    }),
    // In these the same is told once for each gate, because what happens there is somebody's act and no fault.
    scenario("usage_comes_while_a_draft_is_synced", one, |story| {
        at_every_gate(story, |story, gate| {
            uses(story, 0, 5);
            story.send_unanswered(0);
            story.run_all();
            story.ask_for_sync(0, 0);
            story.run_all();
            meanwhile(story, SYNC, gate, |story| {
                let batch = uses(story, 0, 3);
                story.send(0, batch);
            })
        })
    }),
    scenario("a_line_is_edited_while_the_draft_is_read_back", three_prices, |story| {
        with_a_draft(story);
        at_every_gate(story, |story, gate| {
            story.describe_the_draft(0);
            hears_all(story);
            story.run_all();
            meanwhile(story, SYNC, gate, |story| {
                story.edit_a_line(0, 1, 88_800);
                hears_all(story);
                story.work(0);
            })
        })
    }),
    scenario("somebody_finalizes_a_draft_that_is_opened_anew", one, |story| {
        let at = story.world.now();
        with_a_draft(story);
        end_of_cycle(story);
        settle(story, 2);
        at_every_gate(story, |story, gate| {
            story.world.pass(Duration::minutes(6));
            story.consume(&[(0, 0, 7, at)]);
            settle(story, 1);
            story.delete_the_draft(0);
            hears_all(story);
            story.run_all();
            meanwhile(story, SYNC, gate, |story| story.finalize_by_hand(0))
        })
    }),
    scenario("a_webhook_comes_while_another_is_reacted_to", one, |story| {
        at_every_gate(story, |story, gate| {
            uses(story, 0, 5);
            settle(story, 1);
            story.finalize_by_hand(0);
            story.collect_mail();
            let first = story.mail.iter().position(|delivery| delivery.event_type.starts_with("invoice."));
            if let Some(first) = first {
                let first = story.mail.remove(first);
                story.deliver(0, first);
            }
            story.run_all();
            meanwhile(story, REACT, gate, hears_all)
        })
    }),
    scenario("a_process_dies_while_it_hears_of_a_deleted_customer", one, |story| {
        at_every_gate(story, |story, gate| {
            uses(story, 0, 5);
            settle(story, 1);
            story.delete_the_customer(0);
            hears_all(story);
            story.run_all();
            story.world.pass(Duration::seconds(20));
            let more = meanwhile(story, REACT, gate, |story| story.kill(0));
            settle(story, 2);
            story.link_anew(0);
            if story.company.customers[0].gone {
                story.world.wrong(7, "a customer is deleted at Stripe, and nobody knows");
            }
            more
        })
    }),
    with("somebody_presses_pay_while_it_is_charged", one, OPENTAB_CHARGES, |story| {
        with_a_card(story, CardOutcome::Succeeds);
        at_every_gate(story, |story, gate| {
            story.world.pass(Duration::minutes(6));
            uses(story, 0, 5);
            settle(story, 1);
            story.finalize_by_hand(0);
            hears_all(story);
            story.run_all();
            meanwhile(story, CHARGE, gate, |story| story.ask_for_payment(0, 0))
        })
    }),
];

const fn scenario(
    name: &'static str,
    plans: fn() -> Vec<Plan>,
    tell: fn(&mut Story<'_>) -> anyhow::Result<()>,
) -> Scenario {
    with(name, plans, NOTHING, tell)
}

const fn with(
    name: &'static str,
    plans: fn() -> Vec<Plan>,
    settings: &'static [(&'static str, &'static str)],
    tell: fn(&mut Story<'_>) -> anyhow::Result<()>,
) -> Scenario {
    Scenario { name, plans, settings, processes: 1, tell }
}
