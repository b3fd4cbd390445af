//! What a handler is: an async function whose arguments are made from a delivery.

use posthaste_core::Result;

use crate::Incoming;
use crate::extract::{EventType, FromDelivery, first};

/// A function of up to ten arguments. Implemented for functions and closures; that they are async,
/// and what they return, is asked where they are registered.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a function that can be called for a message",
    note = "a handler is an `async fn` of at most ten arguments, or a closure that returns a future"
)]
pub trait HandlerFn<A>: Send + Sync + 'static {
    /// What a call returns: a future.
    type Returned;

    /// Calls it.
    fn call(&self, arguments: A) -> Self::Returned;
}

/// The arguments of a handler, as a tuple.
pub trait Arguments<S>: Sized {
    /// The event that one of them is decoded from.
    const EVENT: Option<EventType>;

    /// Makes all of them.
    ///
    /// # Errors
    /// That of the first one that cannot be made.
    fn from_delivery(incoming: &Incoming<'_>, state: &S) -> Result<Self>;
}

macro_rules! functions_of {
    ($($name:ident),*) => {
        impl<F, R, $($name),*> HandlerFn<($($name,)*)> for F
        where
            F: Fn($($name),*) -> R + Send + Sync + 'static,
        {
            type Returned = R;

            #[allow(non_snake_case, reason = "an argument is named like its type")]
            fn call(&self, ($($name,)*): ($($name,)*)) -> R {
                self($($name),*)
            }
        }

        impl<S, $($name: FromDelivery<S>),*> Arguments<S> for ($($name,)*) {
            const EVENT: Option<EventType> = first([$($name::EVENT),*]);

            #[allow(unused_variables, reason = "a handler may take no argument")]
            fn from_delivery(incoming: &Incoming<'_>, state: &S) -> Result<Self> {
                Ok(($($name::from_delivery(incoming, state)?,)*))
            }
        }
    };
}

functions_of!();
functions_of!(A);
functions_of!(A, B);
functions_of!(A, B, C);
functions_of!(A, B, C, D);
functions_of!(A, B, C, D, E);
functions_of!(A, B, C, D, E, G);
functions_of!(A, B, C, D, E, G, H);
functions_of!(A, B, C, D, E, G, H, I);
functions_of!(A, B, C, D, E, G, H, I, J);
functions_of!(A, B, C, D, E, G, H, I, J, K);
