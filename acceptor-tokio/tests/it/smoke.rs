//! A client and a server, end to end.

use acceptor_tokio::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_is_echoed() {
    let runtime = TokioRuntime::current().unwrap();
    let echo = acceptor_fn(|connection: Connection| async move {
        let mut stream = connection.stream;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        Ok(())
    });
    let pool = Pool::start(runtime.clone(), Spec::new("echo", echo)).unwrap();
    let socket = ListenOptions::new("127.0.0.1:0").bind().unwrap();
    let address = socket.local_addr().unwrap();
    pool.add_listener(TcpListener::from_std(socket, &runtime).unwrap(), 3)
        .unwrap();
    for _ in 0..100 {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    }
    println!("{}", pool.status().unwrap());
    println!("{}", pool.stop().await);
}
