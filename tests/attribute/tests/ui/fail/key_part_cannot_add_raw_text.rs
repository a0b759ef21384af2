use lock_runtime::{KeyBuilder, KeyPart};

struct Seat(u16);

impl KeyPart for Seat {
    fn add(&self, key: &mut KeyBuilder) {
        key.text("seat:");
    }
}

fn main() {
    let _ = Seat(1);
}
