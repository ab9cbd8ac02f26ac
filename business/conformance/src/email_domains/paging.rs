//! Going from page to page, every domain appears exactly once.

use std::collections::BTreeMap;

use business::{
    email_domains::{
        model::{DomainName, Tally},
        ports::{Cursor, Page},
        verdict::{Verdict, VerdictPolicy},
    },
    kernel::{ErrorKind, PortError},
};

use super::{
    Subject,
    driver::{Store, name},
};

/// 150 domains on pages of 1 and of 7: all of them, and those of each verdict.
pub async fn short_pages_hold_every_domain_once(subject: Subject) {
    let store = Store::of(&subject);
    let expected = fill(&store, 150).await;
    for limit in [1, 7] {
        assert_listed(&store, subject.policy, &expected, limit).await;
    }
}

/// 2,300 domains on pages of 1,000 and of the most there can be.
pub async fn long_pages_hold_every_domain_once(subject: Subject) {
    let store = Store::of(&subject);
    let expected = fill(&store, 2_300).await;
    for limit in [1_000, u16::MAX] {
        assert_listed(&store, subject.policy, &expected, limit).await;
    }
}

/// Domains that come while somebody goes through the pages push none of the others off them, or
/// onto two.
pub async fn pages_stand_still_while_domains_come(subject: Subject) {
    let store = Store::of(&subject);
    let expected = fill(&store, 100).await;
    for (walk, verdict) in [None, Some(Verdict::Unknown)].into_iter().enumerate() {
        let mut times_seen: BTreeMap<DomainName, u32> = BTreeMap::new();
        let mut after = None;
        let mut comers = 0;
        loop {
            let page = store.page(verdict, after, 3).await;
            for (domain, _) in page.domains {
                *times_seen.entry(domain).or_default() += 1;
            }
            let Some(next) = page.next else { break };
            after = Some(next);
            // They stop to come, so that the pages end.
            if comers < 60 {
                // Before, between and after those that are there, whatever the order.
                let names =
                    ["0", "a", "b", "d", "z"].map(|at| format!("{at}{comers}-{walk}.example"));
                let new: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 0)).collect();
                store.count(&new).await;
                // One that is there, and keeps its verdict.
                store.count(&[("d2.example", 1, 1)]).await;
                comers += 1;
            }
        }
        for (domain, tally) in &expected {
            if verdict.is_none_or(|verdict| verdict == subject.policy.verdict(tally)) {
                let times = times_seen.get(domain).copied().unwrap_or_default();
                assert_eq!(times, 1, "{domain}, {verdict:?}");
            }
        }
    }
}

/// A cursor that cannot be the store's is refused; one that might be does no harm.
pub async fn a_foreign_cursor_is_refused(subject: Subject) {
    let store = Store::of(&subject);
    fill(&store, 30).await;
    for length in [0, 1, 3, 33, 1_000, 100_000] {
        match ask(&store, &vec![0xff; length]).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{length} bytes"),
            Ok(page) => panic!("a cursor of {length} times 0xff is answered with {page:?}"),
        }
    }

    let real = store.page(None, None, 3).await.next;
    let Cursor(real) = real.expect("more than 3 are there");
    let shortened = (0..real.len()).filter_map(|end| real.get(..end));
    let lengthened = [real.to_vec(), vec![0]].concat();
    let mut altered: Vec<Vec<u8>> = shortened.map(<[u8]>::to_vec).chain([lengthened]).collect();
    for position in 0..real.len() {
        let mut copy = real.to_vec();
        if let Some(byte) = copy.get_mut(position) {
            *byte ^= 0x80;
        }
        altered.push(copy);
    }
    for length in [1, 4, 8, 12, 16, 20, 24, 32] {
        for filler in [0, b'.', b'a', b'-', 0x7f] {
            altered.push(vec![filler; length]);
        }
    }
    for bytes in altered {
        if let Err(error) = ask(&store, &bytes).await {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bytes:?}");
        }
    }
}

async fn ask(store: &Store, cursor: &[u8]) -> Result<Page, PortError> {
    store.try_page(None, Some(Cursor(cursor.into())), 3).await
}

/// Records domains of all verdicts, and says what the store must hold now; their times are left
/// to it.
pub(crate) async fn fill(store: &Store, count: u32) -> Vec<(DomainName, Tally)> {
    // Names in which bytes, locales and numbers sort differently.
    let names: Vec<_> = (0..count)
        .map(|n| match n % 4 {
            0 => format!("d{n}.example"),
            1 => format!("d-{n}.example"),
            2 => format!("d{n}.e-xample"),
            _ => format!("{n}.d.example"),
        })
        .collect();
    let changes: Vec<_> = (0..)
        .zip(&names)
        .map(|(n, name)| match n % 3 {
            0 => (name.as_str(), 1 + n, 0),
            1 => (name.as_str(), 1, 0),
            _ => (name.as_str(), n, 1),
        })
        .collect();
    // "d2.example" is counted again while the pages are gone through.
    store.count(&[("d2.example", 0, 1)]).await;
    store.count(&changes).await;
    let mut expected: Vec<_> = changes
        .iter()
        .map(|&(text, delivered, bounced)| (name(text), counted(delivered, bounced)))
        .chain([(name("d2.example"), counted(0, 1))])
        .collect();
    expected.sort_by(|(a, _), (b, _)| a.cmp(b));
    expected
}

fn counted(delivered: u32, bounced: u32) -> Tally {
    Tally {
        delivered: delivered.into(),
        bounced: bounced.into(),
        seen: None,
    }
}

/// Goes through all pages, then through those of each verdict, and finds what is expected.
async fn assert_listed(
    store: &Store,
    policy: VerdictPolicy,
    expected: &[(DomainName, Tally)],
    limit: u16,
) {
    for verdict in [None].into_iter().chain(Verdict::ALL.map(Some)) {
        let asked = format!("{verdict:?} on pages of {limit}");
        let mut listed = store.list(verdict, limit).await;
        listed.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (domain, tally) in &mut listed {
            assert!(tally.seen.is_some(), "{asked}: {domain} was never seen");
            tally.seen = None;
        }
        let expected: Vec<_> = expected
            .iter()
            .filter(|(_, tally)| verdict.is_none_or(|verdict| verdict == policy.verdict(tally)))
            .cloned()
            .collect();
        assert_eq!(listed.len(), expected.len(), "{asked}");
        for (listed, expected) in listed.iter().zip(&expected) {
            assert_eq!(listed, expected, "{asked}");
        }
    }
}
