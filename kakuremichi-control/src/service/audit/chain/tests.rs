use std::sync::Arc;

use kakuremichi_core::store::{Batch, MAX_PAGE, MemoryStore, conformance::sample};

use super::{super::sealing::seal_page, *};

async fn deeds(store: &dyn Store, count: usize) {
    for n in 0..count {
        let audit = sample::audit(&format!("test.{n}"));
        let mutations = Vec::new();
        store
            .commit(Batch {
                mutations,
                audit,
                request: None,
            })
            .await
            .unwrap();
    }
}

async fn seal(store: &dyn Store) {
    while seal_page(store).await.unwrap() {}
}

#[tokio::test]
async fn a_chain_is_verified_with_its_pins() {
    let store = MemoryStore::new();
    let empty = verify(&store, None).await.unwrap().unwrap();
    assert_eq!(
        (empty.sealed, empty.unsealed, empty.head),
        (0, 0, AuditLink::default())
    );
    deeds(&store, MAX_PAGE + 2).await;
    let before = verify(&store, None).await.unwrap().unwrap();
    assert_eq!((before.sealed, before.unsealed), (0, MAX_PAGE as u64 + 2));
    seal(&store).await;
    let first = verify(&store, Some(empty.head)).await.unwrap().unwrap();
    assert_eq!((first.sealed, first.unsealed), (MAX_PAGE as u64 + 2, 0));
    deeds(&store, 3).await;
    seal(&store).await;
    deeds(&store, 1).await;
    let second = verify(&store, Some(first.head)).await.unwrap().unwrap();
    assert_eq!((second.sealed, second.unsealed), (MAX_PAGE as u64 + 5, 1));
    // The same deeds, from other beginnings: none of its heads is in this chain.
    let other = AuditLink {
        hash: [7; 32],
        ..first.head
    };
    assert_eq!(
        verify(&store, Some(other)).await.unwrap(),
        Err(AuditFault::Pin(first.head.sequence))
    );
    let text = LinkText(second.head).to_string();
    assert_eq!(text.parse(), Ok(LinkText(second.head)));
    for bad in ["", "1", "1:ab", "x:00", &text.to_uppercase()[..text.len() - 1]] {
        assert_eq!(bad.parse::<LinkText>(), Err(ParseLinkError), "{bad}");
    }
}

#[tokio::test]
async fn several_who_seal_at_once_make_one_chain() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    deeds(&*store, 20).await;
    let sealers = (0..4).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..20 {
                deeds(&*store, 1).await;
                seal(&*store).await;
            }
        })
    });
    for sealer in sealers.collect::<Vec<_>>() {
        sealer.await.unwrap();
    }
    seal(&*store).await;
    let verified = verify(&*store, None).await.unwrap().unwrap();
    assert_eq!((verified.sealed, verified.unsealed), (100, 0));
}
