use locks::key;

fn main() {
    let id = 7;
    let _ = (id, key!("coupon:<id>"));
}
