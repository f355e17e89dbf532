//! Runs the servers of `measure.sh` on tokio.

use tokio::runtime::Builder;

use crate::shared::session::{Error, setting};

/// Runs the server on this thread, with all its tasks; or on `WORKERS` threads, of which this thread is not one.
pub(crate) fn run(
    server: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), Error> {
    let workers = setting("WORKERS");
    if workers == 0 {
        return Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(server);
    }
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers).enable_all().build()?;
    runtime.block_on(runtime.spawn(server))?
}
