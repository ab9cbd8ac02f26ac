use std::{
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    thread,
};

use tokio::task::JoinHandle;

use super::{Shutdown, workers::message_of};

/// Starts a task that has one life: should it panic, that is a [`Shutdown::fail`] with its name and
/// message. To return is no failure.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn_named<F>(name: &'static str, shutdown: &Shutdown, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut future = pin!(future);
        // After a panic the future is only dropped, so it cannot be seen half changed.
        poll_fn(|context| {
            let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
            catch_unwind(poll).unwrap_or_else(|panic| {
                shutdown.fail(format!("task {name} panicked: {}", message_of(&*panic)));
                Poll::Ready(())
            })
        })
        .await;
    })
}

/// The same for a plain thread, for work that blocks.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn_thread<F>(
    name: &'static str,
    shutdown: &Shutdown,
    work: F,
) -> io::Result<thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let shutdown = shutdown.clone();
    thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            shutdown.fail(format!("thread {name} panicked: {}", message_of(&*panic)));
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::supervision::Cause;

    #[tokio::test]
    async fn a_panicking_task_is_fatal() {
        let shutdown = Shutdown::new();
        let task = spawn_named("comparer", &shutdown, async {
            tokio::task::yield_now().await;
            panic!("no {}", "journal");
        });
        task.await.unwrap();
        let cause = Cause::Fatal("task comparer panicked: no journal".into());
        assert_eq!(shutdown.cause(), Some(cause));
    }

    #[test]
    fn a_panicking_thread_is_fatal() {
        let shutdown = Shutdown::new();
        spawn_thread("journal", &shutdown, || panic!("torn"))
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(
            shutdown.cause(),
            Some(Cause::Fatal("thread journal panicked: torn".into()))
        );
    }

    #[tokio::test]
    async fn to_return_is_no_failure() {
        let shutdown = Shutdown::new();
        spawn_named("short", &shutdown, async {}).await.unwrap();
        spawn_thread("short", &shutdown, || {})
            .unwrap()
            .join()
            .unwrap();
        assert!(!shutdown.is_requested());
    }
}
