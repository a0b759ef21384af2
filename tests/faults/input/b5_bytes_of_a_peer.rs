//! B5: bytes of a peer.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_bytes_of_a_peer_panic_hang_or_grant(bytes in prop::collection::vec(prop_oneof![
        any::<u8>().boxed(),
        prop::sample::select(b"+-:$*%~>_#,(=!|\r\n0123456789".to_vec()).boxed(),
    ], 0..200)) {
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", peer.local_addr().unwrap());
        std::thread::spawn(move || {
            if let Ok((mut client, _)) = peer.accept() {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(&bytes);
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut settings = RedisSettings::default();
            settings.command_timeout = ms(50);
            settings.connect_timeout = ms(50);
            let connecting = RedisBackend::connect(Config::from_url(url), settings);
            let outcome = timeout(DEADLINE, connecting).await;
            prop_assert!(outcome.expect("it hangs").is_err());
            Ok(())
        })?;
    }
}
