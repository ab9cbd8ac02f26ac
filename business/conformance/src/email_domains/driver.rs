//! How the behaviours speak to a store: in short words, and with a panic for every failure.

use std::{collections::HashSet, num::NonZeroU16, sync::Arc};

use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Key, Mark, Member, Tally, WriterId},
        ports::{Cursor, DomainTallies, Freshness, Page, PageRequest, Recorded, Totals},
        verdict::Verdict,
    },
    kernel::{PortError, UnixSeconds},
};

use super::Subject;

/// When the suite's groups are formed, unless their time matters.
pub(crate) const NOW: u32 = 1_800_000_000;

/// No list in the suite has as many pages; one that does never ends.
const MOST_PAGES: usize = 100_000;

/// A store, held for as long as it is asked something.
#[derive(Clone)]
pub(crate) struct Store {
    tallies: Arc<dyn DomainTallies>,
}

impl Store {
    pub(crate) fn of(subject: &Subject) -> Self {
        Self {
            tallies: Arc::clone(&subject.tallies),
        }
    }

    /// Records a group that has to succeed.
    pub(crate) async fn record(&self, group: &Group) -> Recorded {
        let recorded = self
            .tallies
            .record(group)
            .await
            .expect("a group is recorded");
        assert_eq!(
            recorded.outcomes.len(),
            group.members.len(),
            "one outcome a member"
        );
        recorded
    }

    /// Records a group of one member without a mark.
    pub(crate) async fn count(&self, changes: &[(&str, u32, u32)]) -> Recorded {
        self.record(&group([member(changes)])).await
    }

    /// The tallies of these domains, from the store itself.
    pub(crate) async fn tallies(&self, domains: &[DomainName]) -> Vec<Tally> {
        self.get(domains, Freshness::Latest).await
    }

    pub(crate) async fn get(&self, domains: &[DomainName], freshness: Freshness) -> Vec<Tally> {
        let tallies = self
            .tallies
            .get(domains, freshness)
            .await
            .expect("a read succeeds");
        assert_eq!(tallies.len(), domains.len(), "one tally a domain");
        tallies
    }

    /// The tally of one domain.
    pub(crate) async fn tally(&self, domain: &str) -> Tally {
        let tallies = self.tallies(&[name(domain)]).await;
        *tallies.first().expect("one tally a domain")
    }

    /// Delivered and bounced of one domain.
    pub(crate) async fn counts(&self, domain: &str) -> (u64, u64) {
        let tally = self.tally(domain).await;
        (tally.delivered, tally.bounced)
    }

    pub(crate) async fn totals(&self) -> Totals {
        self.tallies.totals().await.expect("the totals are read")
    }

    pub(crate) async fn store_id(&self) -> u128 {
        self.tallies
            .probe()
            .await
            .expect("the store serves")
            .store
            .0
    }

    /// One page, which may fail.
    pub(crate) async fn try_page(
        &self,
        verdict: Option<Verdict>,
        after: Option<Cursor>,
        limit: u16,
    ) -> Result<Page, PortError> {
        let limit = NonZeroU16::new(limit).expect("a limit is not zero");
        let request = PageRequest {
            verdict,
            after,
            limit,
        };
        let page = self.tallies.page(&request).await?;
        assert!(
            page.domains.len() <= limit.get().into(),
            "{} domains on a page of at most {limit}",
            page.domains.len()
        );
        Ok(page)
    }

    /// One page, which has to succeed.
    pub(crate) async fn page(
        &self,
        verdict: Option<Verdict>,
        after: Option<Cursor>,
        limit: u16,
    ) -> Page {
        self.try_page(verdict, after, limit)
            .await
            .expect("a page is read")
    }

    /// All pages, to the end, as they came.
    pub(crate) async fn list(
        &self,
        verdict: Option<Verdict>,
        limit: u16,
    ) -> Vec<(DomainName, Tally)> {
        self.list_after(None, verdict, limit).await
    }

    /// All pages that follow a cursor.
    pub(crate) async fn list_after(
        &self,
        mut after: Option<Cursor>,
        verdict: Option<Verdict>,
        limit: u16,
    ) -> Vec<(DomainName, Tally)> {
        let mut listed = Vec::new();
        let mut cursors = HashSet::new();
        for _ in 0..MOST_PAGES {
            let page = self.page(verdict, after, limit).await;
            listed.extend(page.domains);
            let Some(next) = page.next else { return listed };
            assert!(
                cursors.insert(next.clone()),
                "the pages go round: {next:?} came before"
            );
            after = Some(next);
        }
        panic!("the pages do not end");
    }
}

/// The name with this text.
pub(crate) fn name(text: &str) -> DomainName {
    DomainName::parse(text).expect("the suite's names are valid")
}

pub(crate) fn names<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<DomainName> {
    texts.into_iter().map(name).collect()
}

/// A member without a mark: domain, delivered, bounced.
pub(crate) fn member(changes: &[(&str, u32, u32)]) -> Arc<Member> {
    Arc::new(Member {
        mark: None,
        changes: changes_of(changes),
    })
}

/// A member with a mark: key, fingerprint.
pub(crate) fn marked(mark: (u128, u64), changes: &[(&str, u32, u32)]) -> Arc<Member> {
    stamped(None, mark, changes)
}

/// The same with a key that says when it was made.
pub(crate) fn stamped(
    stamped_at: Option<u32>,
    (hash, fingerprint): (u128, u64),
    changes: &[(&str, u32, u32)],
) -> Arc<Member> {
    let key = Key {
        hash,
        stamped_at: stamped_at.map(UnixSeconds::from),
    };
    Arc::new(Member {
        mark: Some(Mark { key, fingerprint }),
        changes: changes_of(changes),
    })
}

fn changes_of(changes: &[(&str, u32, u32)]) -> Changes {
    let mut all = Changes::default();
    for &(domain, delivered, bounced) in changes {
        all.push(name(domain).borrowed(), delivered, bounced);
    }
    all
}

/// A group nobody will record again.
pub(crate) fn group(members: impl IntoIterator<Item = Arc<Member>>) -> Group {
    Group {
        id: None,
        formed_at: UnixSeconds::from(NOW),
        members: members.into_iter().collect(),
    }
}

/// A group formed at this second.
pub(crate) fn group_at(seconds: u32, members: impl IntoIterator<Item = Arc<Member>>) -> Group {
    Group {
        formed_at: UnixSeconds::from(seconds),
        ..group(members)
    }
}

/// The group of this number of a writer.
pub(crate) fn group_of(
    writer: u128,
    sequence: u64,
    members: impl IntoIterator<Item = Arc<Member>>,
) -> Group {
    Group {
        id: Some(GroupId {
            writer: WriterId(writer),
            sequence,
        }),
        ..group(members)
    }
}

/// The changes of verdict, sorted by domain: a store may tell them in any order.
pub(crate) fn told(recorded: &Recorded) -> Vec<(String, Verdict, Verdict)> {
    let mut told: Vec<_> = recorded
        .verdict_changes
        .iter()
        .map(|change| (change.domain.to_string(), change.from, change.to))
        .collect();
    told.sort();
    told
}
