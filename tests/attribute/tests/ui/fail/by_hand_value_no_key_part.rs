use lock_runtime::key;

fn main() {
    let id = 7;
    let price = 0.5;
    let _ = (id, key!("seat:<price>"));
}
