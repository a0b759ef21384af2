// Package worker is one process of a run of lock-bench whose locks are written in Go: it takes the
// same job, uses the same shared memory and tells the same tally as the processes of the other
// sides (benches/src/job.rs, board.rs).
package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TTL is that of every lock, on every side.
const TTL = 30 * time.Second

// Job is what a process has to do.
type Job struct {
	Side        string `json:"side"`
	URL         string `json:"url"`
	Board       string `json:"board"`
	Process     int    `json:"process"`
	Tasks       int    `json:"tasks"`
	TasksBefore int    `json:"tasks_before"`
	Key         string `json:"key"`
	Shared      bool   `json:"shared"`
	Section     string `json:"section"`
	Timed       string `json:"timed"`
	Threads     int    `json:"threads"`
	NoLoop      bool   `json:"no_loop"`
}

type tally struct {
	Served   []uint64          `json:"served"`
	Times    map[uint64]uint64 `json:"times"`
	CPU      float64           `json:"cpu_s"`
	Switches int64             `json:"switches"`
}

// Laid out as in board.rs.
type board struct {
	phase, ready                                                      atomic.Uint32
	holders, owner, fence, releasedAt, sections, handOffs, violations atomic.Uint64
}

const (
	warmUp = iota + 1
	measure
	stop
)

func (b *board) reached(phase uint32) {
	for b.phase.Load() < phase {
		time.Sleep(time.Millisecond)
	}
}

// Enters the critical section. Tells whether the lock came from another task.
func (b *board) enter(me uint64) bool {
	if b.holders.Add(1) != 1 {
		b.violations.Add(1)
	}
	b.sections.Add(1)
	handedOver := b.owner.Swap(me) != me
	if handedOver {
		b.handOffs.Add(1)
	}
	return handedOver
}

// Nanoseconds on the clock that all processes share.
func now() uint64 {
	var t unix.Timespec
	Must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &t))
	return uint64(t.Nano())
}

// To eleven bits.
func rounded(nanos uint64) uint64 {
	if shift := bits.Len64(nanos) - 11; shift > 0 {
		return nanos >> shift << shift
	}
	return nanos
}

// Must ends the process if something went wrong.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func spent() (float64, int64) {
	var usage syscall.Rusage
	Must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9, usage.Nvcsw
}

// Client is what takes the locks.
type Client struct {
	// Lock waits for the lock of a key, and returns what releases it. It may fail when the context has
	// ended.
	Lock func(context.Context, string) (func(), error)
	// Stay is what is done in the section "redis".
	Stay func()
}

type task struct {
	job    *Job
	board  *board
	client Client
	id     uint64
	key    string
	served uint64
	times  map[uint64]uint64
}

func (t *task) run(ctx context.Context) {
	t.board.reached(warmUp)
	for t.board.phase.Load() != stop {
		if !t.turn(ctx) {
			return
		}
	}
}

func (t *task) turn(ctx context.Context) bool {
	started := time.Now()
	release, err := t.client.Lock(ctx, t.key)
	if ctx.Err() != nil {
		if err == nil {
			release()
		}
		return false
	}
	Must(err)
	waited := time.Since(started)
	handedOver := t.job.Shared && t.board.enter(t.id)
	handOff := time.Duration(now() - t.board.releasedAt.Load())
	t.stay()
	if t.job.Shared {
		t.board.holders.Add(^uint64(0))
	}
	if t.job.Timed == "hand-off" && handedOver {
		t.board.releasedAt.Store(now())
	}
	releasing := time.Now()
	release()
	var took time.Duration
	switch t.job.Timed {
	case "pair":
		took = waited + time.Since(releasing)
	case "wait":
		took = waited
	default:
		took = handOff
	}
	if t.board.phase.Load() == measure && (t.job.Timed != "hand-off" || handedOver) {
		t.served++
		t.times[rounded(uint64(took))]++
	}
	return true
}

// What is done in the critical section.
func (t *task) stay() {
	switch t.job.Section {
	case "redis":
		t.client.Stay()
	case "pause":
		time.Sleep(time.Millisecond)
	}
}

// Run does the job that the command line says, with the locks of a client that connects.
func Run(connect func(*Job) Client) {
	if len(os.Args) != 3 {
		Must(fmt.Errorf("usage: %s worker JOB", os.Args[0]))
	}
	var j Job
	Must(json.Unmarshal([]byte(os.Args[2]), &j))
	runtime.GOMAXPROCS(j.Threads)

	file, err := os.OpenFile(j.Board, os.O_RDWR, 0)
	Must(err)
	memory, err := unix.Mmap(int(file.Fd()), 0, int(unsafe.Sizeof(board{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	Must(err)
	b := (*board)(unsafe.Pointer(&memory[0]))

	client := connect(&j)
	// Some waiters may never be woken: at the end nobody waits for them.
	ctx, cancel := context.WithCancel(context.Background())
	tasks := make([]*task, j.Tasks)
	var running sync.WaitGroup
	for number := range tasks {
		key := j.Key
		if !j.Shared {
			key = fmt.Sprintf("%s:%d:%d", j.Key, j.Process, number)
		}
		t := &task{
			job: &j, board: b, client: client, id: uint64(j.TasksBefore+number) + 1, key: key, times: map[uint64]uint64{},
		}
		tasks[number] = t
		running.Add(1)
		go func() {
			defer running.Done()
			t.run(ctx)
		}()
	}
	b.ready.Add(1)
	b.reached(measure)
	cpu, switches := spent()
	b.reached(stop)
	cpuThen, switchesThen := spent()
	cancel()
	running.Wait()

	result := tally{Times: map[uint64]uint64{}, CPU: cpuThen - cpu, Switches: switchesThen - switches}
	for _, t := range tasks {
		result.Served = append(result.Served, t.served)
		for time, count := range t.times {
			result.Times[time] += count
		}
	}
	Must(json.NewEncoder(os.Stdout).Encode(result))
}
