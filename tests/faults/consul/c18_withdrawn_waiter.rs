//! C18: a waiter withdraws at the moment in which it is handed the lock.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A proxy that holds back the questions with this text until the flag is set.
fn gate(cluster: &Cluster, text: &'static str) -> (Http, Arc<AtomicBool>) {
    let (http, is_open) = (Http::to(cluster.port(0)), Arc::new(AtomicBool::new(false)));
    let shared = Arc::clone(&is_open);
    http.rule(move |asked| match asked.body.contains(text) {
        true => {
            while !shared.load(Ordering::SeqCst) {
                std::thread::sleep(ms(1));
            }
            Fate::Delay(ms(1))
        }
        false => Fate::Pass,
    });
    (http, is_open)
}

async fn patient(endpoint: String) -> ConsulBackend {
    let mut settings = ConsulSettings::new([endpoint]);
    settings.command_timeout = 2 * DEADLINE;
    ConsulBackend::connect(settings).await.unwrap()
}

fn has_asked(http: &Http, text: &str) -> bool {
    http.asked().iter().any(|asked| asked.body.contains(text))
}

/// The holder has seen it wait, and it withdraws before the hand-over: the lock goes to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_has_withdrawn_is_not_handed_the_lock() {
    let cluster = Cluster::start();
    let (http, is_open) = gate(&cluster, "unlock");
    let (here, there) = (
        patient(http.endpoint()).await,
        patient(cluster.endpoint(0)).await,
    );
    let (holder, waiter) = (claim("k"), claim("k").queued());
    granted(&here, &holder).await;
    queued(&there, &waiter).await;
    let release = Release::new(holder.key, holder.owner);
    let releasing = tokio::spawn(async move { (here.release(&release).await, here) });
    eventually("the hand-over is on its way", || has_asked(&http, "unlock")).await;
    there.abandon(&waiter).await.unwrap();
    is_open.store(true, Ordering::SeqCst);
    let (released, _here) = timeout(DEADLINE, releasing).await.unwrap().unwrap();
    assert_eq!(released.unwrap(), Released::Released(None));
    assert_eq!(cluster.claims(), Vec::<String>::new());
}

/// It has seen itself wait, and is handed the lock before it withdraws: it gives that back.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_withdraws_gives_back_what_it_was_handed() {
    let cluster = Cluster::start();
    let (http, is_open) = gate(&cluster, "delete-cas");
    is_open.store(true, Ordering::SeqCst);
    let (here, there) = (
        patient(cluster.endpoint(0)).await,
        patient(http.endpoint()).await,
    );
    let (holder, waiter) = (claim("k"), claim("k").queued());
    granted(&here, &holder).await;
    queued(&there, &waiter).await;
    is_open.store(false, Ordering::SeqCst);
    let gone = waiter.clone();
    let abandoning = tokio::spawn(async move { (there.abandon(&gone).await, there) });
    eventually("it withdraws", || has_asked(&http, "delete-cas")).await;
    let release = Release::new(holder.key, holder.owner);
    here.release(&release).await.unwrap();
    assert!(cluster.owner("lock:k").is_some(), "it was handed the lock");
    is_open.store(true, Ordering::SeqCst);
    let (abandoned, _there) = timeout(DEADLINE, abandoning).await.unwrap().unwrap();
    abandoned.unwrap();
    assert_eq!(cluster.claims(), Vec::<String>::new());
}
