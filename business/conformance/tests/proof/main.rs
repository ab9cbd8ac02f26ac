//! The suite is right: a plain store that keeps all promises passes it, and each of many broken
//! ones fails where it should.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod broken;
mod plain;

use std::fmt::Debug;

use broken::{Fault, broken};
use business::email_domains::model::Outcome;
use conformance::email_domains::{
    concurrency, group_ids, marks, model_check, names, paging, reads, record, reopened, verdicts,
};
use plain::{fresh, stored, stored_with};

conformance::domain_tallies!(a_mechanism, fresh, [mechanism, reopens(stored)]);
conformance::domain_tallies!(
    a_front,
    // What makes a store no mechanism does not matter to a front.
    || async { broken(Fault::FormsGroupsOfItsOwn) },
    [front, reopens(stored)]
);

/// A behaviour that is not in the lists would never run, and one that finds no fault might find
/// none ever.
#[test]
fn every_behaviour_is_in_the_suite_and_finds_a_fault() {
    macro_rules! areas {
        ($($area:ident)+) => {
            [$((
                stringify!($area),
                include_str!(concat!("../../src/email_domains/", stringify!($area), ".rs")),
            )),+]
        };
    }
    let areas =
        areas!(concurrency group_ids marks model_check names paging reads record reopened verdicts);
    let is_in = |text: &str, name: &str| {
        let mut words = text.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
        words.any(|word| word == name)
    };
    for (area, text) in areas {
        let behaviours: Vec<_> = text
            .split("\npub async fn ")
            .skip(1)
            .filter_map(|text| text.split('(').next())
            .collect();
        assert!(!behaviours.is_empty(), "{area}");
        for name in behaviours {
            let suite = include_str!("../../src/email_domains/suite.rs");
            assert!(is_in(suite, name), "{name} is in no list");
            let proof = include_str!("main.rs");
            let found = is_in(proof, &format!("{area}::{name}")) || is_in(proof, name);
            assert!(found, "{area}::{name} finds no fault");
        }
    }
}

async fn fails(fault: impl Debug, behaviour: impl Future<Output = ()> + Send + 'static) {
    let end = tokio::spawn(behaviour).await;
    assert!(
        end.is_err_and(|error| error.is_panic()),
        "{fault:?} was not found"
    );
}

/// `fault => behaviours that find it`.
macro_rules! found {
    ($($test:ident { $($fault:ident => $($area:ident::$behaviour:ident),+;)+ })+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $($(fails(Fault::$fault, $area::$behaviour(broken(Fault::$fault))).await;)+)+
        }
    )+};
}

found! {
    faults_of_recording_are_found {
        CutsLargeGroups => record::a_large_group_is_applied_whole;
        Counts32Bits => record::counts_pass_32_bits;
        CountsANameOnceAMember => record::a_domain_named_twice_in_a_member_adds_up,
            model_check::a_random_run_agrees_with_the_model;
        CountsANameOnceAGroup => record::the_members_of_a_group_add_up;
        ReplacesWhatWasThere => record::groups_add_up;
        FailsOnEmptyGroups => record::a_group_without_members_is_fine;
        SkipsMembersAfterAnEmptyOne => record::a_member_without_changes_is_fine,
            model_check::a_random_run_agrees_with_the_model;
        FormsGroupsOfItsOwn => record::first_and_last_seen_come_from_the_group,
            model_check::a_random_run_with_ids_agrees_with_the_model;
        TakesTimeZeroForNever => record::the_ends_of_time_are_kept;
        LastSeenIsTheLatestGroup => record::first_and_last_seen_come_from_the_group,
            model_check::a_random_run_with_ids_agrees_with_the_model;
        CutsLongNames => names::the_longest_names_are_kept;
        DropsSubdomains => names::subdomains_are_domains_of_their_own;
        DecodesALabels => names::a_labels_are_kept_as_they_are;
        IgnoresHyphens => names::names_that_look_alike_stay_apart;
        LosesUpdates => concurrency::many_writers_lose_nothing,
            concurrency::many_writers_with_ids_lose_nothing;
    }

    faults_of_verdicts_are_found {
        ThresholdIsOneHigher => verdicts::the_threshold_makes_a_catch_all,
            verdicts::each_changed_domain_is_told_once;
        TellsEveryMember => verdicts::a_group_tells_where_it_began_and_ended;
        TellsNothing => verdicts::a_bounce_is_final, verdicts::a_duplicate_changes_no_verdict,
            concurrency::somebody_is_told_of_a_new_verdict,
            concurrency::one_group_is_told_of_a_new_verdict,
            model_check::a_random_run_agrees_with_the_model;
        TellsAll => verdicts::the_threshold_makes_a_catch_all,
            verdicts::each_changed_domain_is_told_once,
            verdicts::a_duplicate_changes_no_verdict;
        ComparesBeforeItLocks => concurrency::one_group_is_told_of_a_new_verdict;
    }

    faults_of_marks_are_found {
        IgnoresMarks => marks::a_mark_counts_once, verdicts::a_duplicate_changes_no_verdict,
            concurrency::of_the_same_requests_one_counts,
            concurrency::of_the_same_requests_through_many_writers_one_counts,
            concurrency::of_the_requests_under_one_key_one_counts;
        CountsDuplicates => marks::a_mark_counts_once, marks::marks_hold_within_a_group,
            marks::duplicates_alone_change_nothing, marks::marks_hold_over_all_writers,
            concurrency::of_the_same_requests_one_counts,
            model_check::a_random_run_agrees_with_the_model;
        TouchesDuplicates => marks::duplicates_alone_change_nothing,
            model_check::a_random_run_with_ids_agrees_with_the_model;
        TakesMismatchesForDuplicates => marks::another_payload_is_a_mismatch,
            marks::marks_are_kept_to_the_last_bit,
            concurrency::of_the_requests_under_one_key_one_counts;
        MismatchTakesOver => marks::another_payload_is_a_mismatch,
            model_check::a_random_run_agrees_with_the_model;
        IgnoresMarksWithinAGroup => marks::marks_hold_within_a_group;
        CutsKeys => marks::marks_are_kept_to_the_last_bit;
        TakesOldKeys => marks::a_key_older_than_the_window_does_not_count;
        MarksOfAWriter => marks::marks_hold_over_all_writers,
            concurrency::of_the_same_requests_through_many_writers_one_counts;
        DropsMarksWithoutChanges => marks::a_mark_without_changes_is_used;
        AnswersDuplicatesTooEarly => concurrency::of_the_same_requests_one_counts,
            concurrency::of_the_same_requests_through_many_writers_one_counts;
    }

    faults_of_group_ids_are_found {
        IgnoresIds => group_ids::a_repeated_id_counts_once, group_ids::a_repeat_changes_nothing,
            group_ids::groups_without_an_id_always_count,
            concurrency::an_id_recorded_many_times_at_once_counts_once,
            model_check::a_random_run_with_ids_agrees_with_the_model;
        IgnoresWriters => group_ids::writers_have_numbers_of_their_own;
        RemembersOneWriter => group_ids::writers_have_numbers_of_their_own;
        TakesNumberZeroForARepeat => group_ids::the_next_number_counts;
        RepeatsAreDuplicates => group_ids::a_repeat_is_answered_as_the_first_time,
            model_check::a_random_run_with_ids_agrees_with_the_model;
        RepeatsAreCounted => group_ids::a_repeat_is_answered_as_the_first_time,
            group_ids::groups_that_add_nothing_have_ids_too;
        TellsAgain => group_ids::a_repeat_changes_nothing,
            concurrency::an_id_recorded_many_times_at_once_counts_once,
            model_check::a_random_run_with_ids_agrees_with_the_model;
        ChecksIdsBeforeItLocks => concurrency::an_id_recorded_many_times_at_once_counts_once;
    }

    faults_of_reading_are_found {
        UnseenIsAnError => reads::an_empty_store_is_zero_everywhere;
        AnswersInItsOwnOrder => reads::answers_keep_the_order_of_the_questions;
        AnswersRepeatsOnce => reads::answers_keep_the_order_of_the_questions;
        CutsLongQuestions => reads::many_domains_are_read_at_once;
        RemembersQuestions => reads::asking_leaves_no_trace;
        ReadsAreLate => reads::a_read_shows_what_was_recorded,
            concurrency::many_writers_lose_nothing;
        CacheFails => reads::a_cached_read_may_only_be_behind;
        CacheInvents => reads::a_cached_read_may_only_be_behind;
        TotalsAreLate => reads::a_read_shows_what_was_recorded;
        NeverLeavesCatchAll => reads::the_totals_agree_with_the_pages,
            model_check::a_random_run_agrees_with_the_model;
        TotalsCountDuplicates => reads::the_totals_agree_with_the_pages,
            marks::duplicates_alone_change_nothing;
        IdIsNew => reads::the_store_says_which_one_it_is;
    }

    faults_of_paging_are_found {
        ForgetsAnItem => paging::short_pages_hold_every_domain_once,
            paging::long_pages_hold_every_domain_once, paging::pages_stand_still_while_domains_come;
        RepeatsAnItem => paging::short_pages_hold_every_domain_once,
            paging::pages_stand_still_while_domains_come;
        IgnoresTheLimit => paging::short_pages_hold_every_domain_once;
        IgnoresTheVerdict => paging::short_pages_hold_every_domain_once,
            reads::the_totals_agree_with_the_pages;
        EndsAtAnEmptyPage => paging::short_pages_hold_every_domain_once;
        NeverEnds => paging::short_pages_hold_every_domain_once;
        CountsInsteadOfRemembering => paging::pages_stand_still_while_domains_come;
        TakesAnyCursor => paging::a_foreign_cursor_is_refused;
        PanicsOnCursors => paging::a_foreign_cursor_is_refused;
    }
}

/// What a store may forget when it is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_reopening_are_found() {
    use reopened::*;

    let new_id = || stored_with(|data| data.id += 1);
    fails("new id", an_empty_store_stays_itself(new_id())).await;

    let tallies = || stored_with(|data| data.tallies.clear());
    fails("tallies", tallies_and_totals_are_kept(tallies())).await;
    fails("tallies", verdicts_go_on(tallies())).await;
    fails("tallies", cursors_are_good_for_the_next_life(tallies())).await;
    let run = a_random_run_with_restarts_agrees_with_the_model(tallies());
    fails("tallies", run).await;

    let times = || {
        stored_with(|data| {
            for tally in data.tallies.values_mut() {
                tally.seen = None;
            }
        })
    };
    fails("times", tallies_and_totals_are_kept(times())).await;

    let marks = || stored_with(|data| data.marks.clear());
    fails("marks", marks_are_kept(marks())).await;
    let run = a_random_run_with_restarts_agrees_with_the_model(marks());
    fails("marks", run).await;

    let ids = || stored_with(|data| data.last.clear());
    fails("ids", group_ids_are_kept(ids())).await;
    let run = a_random_run_with_ids_and_restarts_agrees_with_the_model(ids());
    fails("ids", run).await;

    let outcomes = || {
        stored_with(|data| {
            for (_, outcomes) in data.last.values_mut() {
                outcomes.fill(Outcome::Counted);
            }
        })
    };
    fails("outcomes", group_ids_are_kept(outcomes())).await;
}
