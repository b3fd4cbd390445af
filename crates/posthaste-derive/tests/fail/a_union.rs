use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.changed")]
union OrderChanged {
    number: u32,
}

fn main() {}
