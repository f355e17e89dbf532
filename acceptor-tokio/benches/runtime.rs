//! How the servers of `measure.sh` run on tokio.

use tokio::runtime::Builder;

use crate::shared::session::{Error, setting};

/// Runs it on this thread, as all tasks; with `WORKERS`, on so many others, for this thread is then none of those that serve.
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
