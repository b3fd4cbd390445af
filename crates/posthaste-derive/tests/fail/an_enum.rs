use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.changed")]
enum OrderChanged {
    Placed,
    Cancelled,
}

fn main() {}
