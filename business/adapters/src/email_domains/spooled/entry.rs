//! One group as bytes, whole: which of its members count is found out when the store is back.

use std::sync::Arc;

use business::email_domains::model::{Changes, DomainRef, Group, GroupId, Member};

use crate::email_domains::embedded::{
    format::{Reader, put_varint},
    record::{group_id, mark, put_group_id, put_mark},
};

/// Appends the group that has this id.
pub(super) fn put(bytes: &mut Vec<u8>, id: GroupId, group: &Group) {
    put_group_id(bytes, id);
    bytes.extend(group.formed_at.get().to_le_bytes());
    put_varint(bytes, group.members.len() as u64);
    for member in &group.members {
        bytes.push(member.mark.is_some().into());
        if let Some(mark) = member.mark {
            put_mark(bytes, mark);
        }
        put_varint(bytes, member.changes.len() as u64);
        for change in member.changes.iter() {
            let name = change.domain.as_str().as_bytes();
            // A name has at most 253 bytes.
            bytes.push(name.len().to_le_bytes()[0]);
            bytes.extend(name);
            put_varint(bytes, change.delivered.into());
            put_varint(bytes, change.bounced.into());
        }
    }
}

/// Reads a group. `None` when it is none.
pub(super) fn group(payload: &[u8]) -> Option<Group> {
    let mut fields = Reader::new(payload);
    let id = group_id(&mut fields)?;
    let formed_at = fields.u32()?.into();
    let members = (0..fields.varint()?)
        .map(|_| member(&mut fields).map(Arc::new))
        .collect::<Option<_>>()?;
    fields.is_empty().then_some(Group {
        id: Some(id),
        formed_at,
        members,
    })
}

fn member(fields: &mut Reader<'_>) -> Option<Member> {
    let mark = match fields.u8()? {
        0 => None,
        1 => Some(mark(fields)?),
        _ => return None,
    };
    let mut changes = Changes::default();
    for _ in 0..fields.varint()? {
        let length = fields.u8()?;
        let name = std::str::from_utf8(fields.bytes(length.into())?).ok()?;
        let domain = DomainRef::from_stored(name).ok()?;
        let delivered = fields.varint()?.try_into().ok()?;
        let bounced = fields.varint()?.try_into().ok()?;
        changes.push(domain, delivered, bounced);
    }
    Some(Member { mark, changes })
}

/// Whatever stands there is read or refused, and what is read is written again as it is read.
#[cfg(any(test, feature = "fuzz"))]
pub(in crate::email_domains) fn fuzz(bytes: &[u8]) {
    let Some(read) = group(bytes) else { return };
    let Some(id) = read.id else {
        panic!("only groups with an id are written");
    };
    let mut again = Vec::new();
    put(&mut again, id, &read);
    let found = group(&again).map(|found| (found.id, found.formed_at, found.members));
    assert_eq!(found, Some((read.id, read.formed_at, read.members)));
}

#[cfg(test)]
mod tests {
    use business::email_domains::model::{Key, Mark, WriterId};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_group_is_read_back(
            id in (any::<u128>(), any::<u64>()),
            formed_at: u32,
            members in prop::collection::vec((
                prop::option::of((any::<u128>(), prop::option::of(1..u32::MAX), any::<u64>())),
                prop::collection::vec(("[a-z]{1,9}", any::<u32>(), any::<u32>()), 0..4),
            ), 0..4),
        ) {
            let id = GroupId { writer: WriterId(id.0), sequence: id.1 };
            let members = members.into_iter().map(|(mark, all)| {
                let mut changes = Changes::default();
                for (name, delivered, bounced) in &all {
                    let name = DomainRef::from_stored(name).unwrap();
                    changes.push(name, *delivered, *bounced);
                }
                let mark = mark.map(|(hash, stamp, fingerprint)| Mark {
                    key: Key { hash, stamped_at: stamp.map(Into::into) },
                    fingerprint,
                });
                Arc::new(Member { mark, changes })
            });
            let given = Group { id: Some(id), formed_at: formed_at.into(), members: members.collect() };
            let mut bytes = Vec::new();
            put(&mut bytes, id, &given);
            let found = group(&bytes).unwrap();
            prop_assert_eq!((found.id, found.formed_at), (given.id, given.formed_at));
            prop_assert_eq!(found.members, given.members);
            prop_assert!(group(&bytes[..bytes.len() - 1]).is_none());
        }
    }
}
