//! What goes wrong.

macro_rules! faults {
    ($($name:ident: $text:literal,)*) => {
        /// A fault that can happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $(#[doc = $text] $name,)*
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &[Fault] = &[$(Fault::$name,)*];

            /// What happens.
            pub fn text(self) -> &'static str {
                match self {
                    $(Fault::$name => $text,)*
                }
            }
        }
    };
}

faults! {
    RequestLost: "a request is lost",
    RequestTwice: "a request arrives twice",
    RequestLate: "a request arrives after its connection was given up",
    RequestOvertaken: "a question is sent after a younger one, and so is not sent",
    AnswerLost: "an answer is lost",
    AnswerLate: "an answer comes after its asker has given up",
    NewsLost: "news are lost",
    NewsTwice: "news come twice",
    NewsLate: "news are late",
    NewsUnexpected: "news come for a claim that is over",
    Slow: "a connection stalls",
    Cut: "a connection is cut",
    Unreachable: "the lock is handed to a process without a connection",
    ServerStalls: "the server stands still",
    DataLost: "the server loses its data",
    RolledBack: "the server gets older data back",
    ClockSetBack: "the clock of the server is set back",
    Refused: "the server refuses for good",
    Foreign: "another program takes a free lock",
    Paused: "a process stands still, while its clock goes on",
    Crashed: "a process crashes",
    ShutDown: "a process shuts down",
    CallerParked: "a caller's future is kept and not polled",
    CallerLeft: "a caller's future is dropped while it waits",
    ReleaseLeft: "a caller's future is dropped while it releases",
    CutOff: "a question is cut off, with the future that asked it",
}
