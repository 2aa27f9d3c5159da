//! HTTP semantics, over real sockets.

mod common;

use common::client::Client;
use common::{TestRepo, TestServer};

#[test]
fn a_file_is_served_in_plaintext_and_over_tls() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    for mut client in [Client::plain(&server), Client::tls(&server)] {
        let response = client.get("/repo/summary");
        assert_eq!(response.status, 200);
        assert_eq!(response.body, repo.read("summary"));
        assert_eq!(client.get("/repo/nothing").status, 404);
    }
}
