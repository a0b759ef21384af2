//! C12: a write is done after its client gave it up.

use super::*;

async fn released(backend: &ConsulBackend, claim: &Claim) {
    let release = Release::new(claim.key.clone(), claim.owner.clone());
    let answer = backend.release(&release).await.unwrap();
    assert_eq!(answer, Released::Released(None));
}

/// A claim lies in the network when it is withdrawn by another way; what arrives then does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_comes_after_its_withdrawal_takes_no_lock_on_consul() {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    let behind = backend(&[pipe.endpoint()]).await;
    let before = claim("k");
    granted(&behind, &before).await;
    released(&behind, &before).await;
    pipe.hold();
    let gone = claim("k");
    {
        let mut asking = Box::pin(behind.acquire(&gone));
        assert!(timeout(ms(1), &mut asking).await.is_err());
        eventually("the claim is on its way", || pipe.held() > 200).await;
        sleep(ms(200)).await;
        pipe.seal();
        assert!(asking.await.is_err());
    }
    // By another process, since all ways of this one lead through the pipe.
    let elsewhere = backend(&cluster.endpoints()).await;
    let mut withdrawn = gone.clone();
    withdrawn.in_doubt = true;
    elsewhere.abandon(&withdrawn).await.unwrap();
    pipe.open();
    // The session of the claim is renewed beside it, so what comes late has arrived by now.
    sleep(secs(1)).await;
    assert_eq!(cluster.claims(), Vec::<String>::new());
    granted(&elsewhere, &claim("k")).await;
}
