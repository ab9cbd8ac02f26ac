//! Every name is a domain of its own.

use business::email_domains::model::MAX_DOMAIN_LENGTH;

use super::{
    Subject,
    driver::{Store, group, member, name},
};

/// A domain and its subdomains share nothing.
pub async fn subdomains_are_domains_of_their_own(subject: Subject) {
    stay_apart(
        &Store::of(&subject),
        &[
            "example.com",
            "mail.example.com",
            "a.mail.example.com",
            "com",
        ],
    )
    .await;
}

/// An A-label is neither decoded nor mixed with the ASCII it resembles.
pub async fn a_labels_are_kept_as_they_are(subject: Subject) {
    stay_apart(
        &Store::of(&subject),
        &[
            "xn--bcher-kva.example",
            "bcher-kva.example",
            "bucher.example",
            "xn--53h.example",
            "xn--r8jz45g.xn--zckzah",
        ],
    )
    .await;
}

/// Names of 253 bytes, which differ in their last or first byte only.
pub async fn the_longest_names_are_kept(subject: Subject) {
    let label = "a".repeat(63);
    let end = "d".repeat(60);
    let longest = ["d", "e"].map(|last| format!("{label}.{label}.{label}.{end}{last}"));
    let other = format!("b{}", longest[0].get(1..).expect("it is long"));
    assert_eq!(longest[0].len(), MAX_DOMAIN_LENGTH);
    stay_apart(&Store::of(&subject), &[&longest[0], &longest[1], &other]).await;
}

/// Names that begin or end alike, of one letter, and with the characters that locales sort
/// differently from bytes.
pub async fn names_that_look_alike_stay_apart(subject: Subject) {
    stay_apart(
        &Store::of(&subject),
        &[
            "a",
            "aa",
            "b",
            "a.b",
            "ab",
            "a-b",
            "a--b",
            "a.b-c",
            "a-b.c",
            "example.co",
            "example.com",
            "example.com.au",
            "example.community",
            "0example.com",
            "00example.com",
            "ex-ample.com",
            "ex.ample.com",
        ],
    )
    .await;
}

/// Counts another number for each name, all in one group and once more one by one, and finds each
/// under its name, by `get` and on the pages.
async fn stay_apart(store: &Store, names: &[&str]) {
    let changes: Vec<_> = (1..).zip(names).map(|(n, name)| (*name, n, 0)).collect();
    store.record(&group([member(&changes)])).await;
    for change in &changes {
        store.count(&[*change]).await;
    }

    for (domain, count, _) in &changes {
        let expected = (2 * u64::from(*count), 0);
        assert_eq!(store.counts(domain).await, expected, "{domain}");
    }
    let mut listed: Vec<_> = store
        .list(None, 3)
        .await
        .into_iter()
        .map(|(domain, tally)| (domain, tally.delivered))
        .collect();
    listed.sort();
    let mut expected: Vec<_> = changes
        .iter()
        .map(|(domain, count, _)| (name(domain), 2 * u64::from(*count)))
        .collect();
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(store.totals().await.domains, expected.len() as u64);
}
