//! Which behaviours make up the suite, and how they become tests.

/// Makes tests of the suite, in a module of this name.
///
/// ```text
/// domain_tallies!(memory, fresh, [mechanism]);
/// domain_tallies!(embedded, fresh, [mechanism, reopens(stored)]);
/// domain_tallies!(stack, fresh, [front, reopens(stored)]);
/// ```
///
/// `fresh` is an async function, or a closure that returns a future, of a new
/// [`Subject`](crate::email_domains::Subject); `stored` one of a new
/// [`Reopenable`](crate::email_domains::Reopenable). What `mechanism` and `front` are is told
/// [here](crate::email_domains).
#[macro_export]
macro_rules! domain_tallies {
    ($name:ident, $fresh:expr, [$kind:ident $(, reopens($stored:expr))? $(,)?]) => {
        mod $name {
            #[allow(unused_imports, reason = "the factory may be named by a full path")]
            use super::*;

            $crate::domain_tallies_suite!($kind, $fresh);
            $($crate::domain_tallies_suite!($kind reopened, $stored);)?
        }
    };
}

/// The lists. A mechanism has all that a front has, and more.
#[doc(hidden)]
#[macro_export]
macro_rules! domain_tallies_suite {
    (front, $fresh:expr) => {
        $crate::domain_tallies_tests! { $fresh;
            record:
                a_domain_named_twice_in_a_member_adds_up
                the_members_of_a_group_add_up
                groups_add_up
                counts_pass_32_bits
                a_group_without_members_is_fine
                a_member_without_changes_is_fine
                a_large_group_is_applied_whole;
            names:
                subdomains_are_domains_of_their_own
                a_labels_are_kept_as_they_are
                the_longest_names_are_kept
                names_that_look_alike_stay_apart;
            verdicts:
                the_threshold_makes_a_catch_all
                a_bounce_is_final
                a_group_tells_where_it_began_and_ended
                each_changed_domain_is_told_once
                a_duplicate_changes_no_verdict;
            marks:
                a_mark_counts_once
                another_payload_is_a_mismatch
                marks_hold_within_a_group
                duplicates_alone_change_nothing
                a_mark_without_changes_is_used
                marks_are_kept_to_the_last_bit;
            reads:
                an_empty_store_is_zero_everywhere
                asking_leaves_no_trace
                answers_keep_the_order_of_the_questions
                many_domains_are_read_at_once
                a_read_shows_what_was_recorded
                a_cached_read_may_only_be_behind
                the_totals_agree_with_the_pages
                the_store_says_which_one_it_is;
            paging:
                short_pages_hold_every_domain_once
                long_pages_hold_every_domain_once
                pages_stand_still_while_domains_come
                a_foreign_cursor_is_refused;
            concurrency:
                many_writers_lose_nothing
                of_the_same_requests_one_counts
                of_the_requests_under_one_key_one_counts
                somebody_is_told_of_a_new_verdict;
            model_check:
                a_random_run_agrees_with_the_model;
        }
    };
    (mechanism, $fresh:expr) => {
        $crate::domain_tallies_suite!(front, $fresh);
        $crate::domain_tallies_tests! { $fresh;
            record:
                first_and_last_seen_come_from_the_group
                the_ends_of_time_are_kept;
            marks:
                marks_hold_over_all_writers
                a_key_older_than_the_window_does_not_count;
            group_ids:
                a_repeated_id_counts_once
                a_repeat_is_answered_as_the_first_time
                a_repeat_changes_nothing
                the_next_number_counts
                writers_have_numbers_of_their_own
                groups_without_an_id_always_count
                groups_that_add_nothing_have_ids_too;
            concurrency:
                many_writers_with_ids_lose_nothing
                of_the_same_requests_through_many_writers_one_counts
                one_group_is_told_of_a_new_verdict
                an_id_recorded_many_times_at_once_counts_once;
            model_check:
                a_random_run_with_ids_agrees_with_the_model;
        }
    };
    (front reopened, $stored:expr) => {
        $crate::domain_tallies_tests! { $stored;
            reopened:
                an_empty_store_stays_itself
                tallies_and_totals_are_kept
                marks_are_kept
                verdicts_go_on
                cursors_are_good_for_the_next_life
                a_random_run_with_restarts_agrees_with_the_model;
        }
    };
    (mechanism reopened, $stored:expr) => {
        $crate::domain_tallies_suite!(front reopened, $stored);
        $crate::domain_tallies_tests! { $stored;
            reopened:
                group_ids_are_kept
                a_random_run_with_ids_and_restarts_agrees_with_the_model;
        }
    };
}

/// One test a behaviour.
#[doc(hidden)]
#[macro_export]
macro_rules! domain_tallies_tests {
    ($factory:expr; $($area:ident: $($behaviour:ident)+;)+) => {$($(
        #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            $crate::in_time(async {
                $crate::email_domains::$area::$behaviour(($factory)().await).await;
            })
            .await;
        }
    )+)+};
}
