//! M11: too few servers, an even number, the same one twice, a ttl that is too long.

use super::*;

#[tokio::test]
async fn a_majority_builds_and_what_is_wrong_is_told_with_the_server() {
    let mut servers = five();
    let build = async |urls: Vec<String>| LockRuntime::redlock(urls).build().await;
    servers[1].kill();
    servers[2].pause();
    build(urls(&servers))
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    servers[3].kill();
    let error = build(urls(&servers)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let LockError::Unavailable(source) = error else {
        unreachable!()
    };
    assert!(source.to_string().contains("127.0.0.1"), "{source}");
    servers[1].restart();
    servers[2].resume();
    servers[3].restart();

    for count in [0, 1, 2, 4] {
        let error = build(urls(&servers)[..count].to_vec()).await.unwrap_err();
        assert!(matches!(error, LockError::Config(_)), "{error:?}");
    }
    let mut twice = urls(&servers);
    twice[4] = twice[0].replace("127.0.0.1", "localhost");
    let error = build(twice).await.unwrap_err();
    let LockError::Config(text) = error else {
        panic!("{error:?}")
    };
    assert!(text.contains("the same server"), "{text}");

    let long = LockRuntime::redlock(urls(&servers)).default_ttl(Duration::from_secs(31));
    let error = long.build().await.unwrap_err();
    assert!(error.to_string().contains("restart_delay"), "{error}");
}
