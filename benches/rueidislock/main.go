// Command rueidislock is one process of a run of lock-bench on the side `rueidislock`, or `redsync`: it takes the same job, uses the same
// shared memory and tells the same tally as the processes of the other sides (benches/src/job.rs, board.rs).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
	"golang.org/x/sys/unix"
)

// The ttl of every lock, on every side.
const ttl = 30 * time.Second

type job struct {
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
	must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &t))
	return uint64(t.Nano())
}

// To eleven bits.
func rounded(nanos uint64) uint64 {
	if shift := bits.Len64(nanos) - 11; shift > 0 {
		return nanos >> shift << shift
	}
	return nanos
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func spent() (float64, int64) {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9, usage.Nvcsw
}

type task struct {
	job    *job
	board  *board
	lock   locker
	redis  rueidis.Client
	id     uint64
	key    string
	served uint64
	times  map[uint64]uint64
}

// Waits for a lock, and tells how to release it.
type locker func(ctx context.Context, key string) (release func(), err error)

// redsync on the servers of these URLs, asked again until it has the lock.
func redsyncOn(urls string) locker {
	var pools []redsyncredis.Pool
	for _, url := range strings.Split(urls, ",") {
		options, err := redis.ParseURL(url)
		must(err)
		pools = append(pools, goredis.NewPool(redis.NewClient(options)))
	}
	locks := redsync.New(pools...)
	return func(ctx context.Context, key string) (func(), error) {
		for {
			mutex := locks.NewMutex(key, redsync.WithExpiry(ttl))
			if err := mutex.LockContext(ctx); err == nil {
				return func() {
					if ok, err := mutex.Unlock(); !ok {
						must(fmt.Errorf("the lock was not held when it was released: %w", err))
					}
				}, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
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
	release, err := t.lock(ctx, t.key)
	if ctx.Err() != nil {
		if err == nil {
			release()
		}
		return false
	}
	must(err)
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
		for _, command := range []string{"INCR", "DECR"} {
			must(t.redis.Do(context.Background(), t.redis.B().Arbitrary(command).Keys("bench:section").Build()).Error())
		}
	case "pause":
		time.Sleep(time.Millisecond)
	}
}

func main() {
	if len(os.Args) != 3 {
		must(fmt.Errorf("usage: rueidislock worker JOB"))
	}
	var j job
	must(json.Unmarshal([]byte(os.Args[2]), &j))
	runtime.GOMAXPROCS(j.Threads)

	file, err := os.OpenFile(j.Board, os.O_RDWR, 0)
	must(err)
	memory, err := unix.Mmap(int(file.Fd()), 0, int(unsafe.Sizeof(board{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	b := (*board)(unsafe.Pointer(&memory[0]))

	option, err := rueidis.ParseURL(strings.Split(j.URL, ",")[0])
	must(err)
	var lock locker
	if j.Side == "redsync" {
		lock = redsyncOn(j.URL)
	} else {
		locks, err := rueidislock.NewLocker(rueidislock.LockerOption{
			ClientOption:   option,
			KeyMajority:    1,
			KeyValidity:    ttl,
			NoLoopTracking: j.NoLoop,
		})
		must(err)
		lock = func(ctx context.Context, key string) (func(), error) {
			_, release, err := locks.WithContext(ctx, key)
			return release, err
		}
	}
	var section rueidis.Client
	if j.Section == "redis" {
		section, err = rueidis.NewClient(option)
		must(err)
	}

	// Some of its waiters are never woken: at the end nobody waits for them.
	ctx, cancel := context.WithCancel(context.Background())
	tasks := make([]*task, j.Tasks)
	var running sync.WaitGroup
	for number := range tasks {
		key := j.Key
		if !j.Shared {
			key = fmt.Sprintf("%s:%d:%d", j.Key, j.Process, number)
		}
		tasks[number] = &task{
			job: &j, board: b, lock: lock, redis: section, id: uint64(j.TasksBefore+number) + 1, key: key, times: map[uint64]uint64{},
		}
		running.Go(func() { tasks[number].run(ctx) })
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
	must(json.NewEncoder(os.Stdout).Encode(result))
}
