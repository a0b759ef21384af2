// A process that takes locks by Go's concurrency.Mutex, as services in Go do.
//
// `etcd-mutex ENDPOINTS NAME TTL` waits for the lock NAME, says "held", and releases it when it
// reads a line, or holds it until it is killed. With a fourth argument N it takes and releases the
// lock N times instead, and says how many microseconds that took. With `writes` as the fourth it
// takes no lock, but writes a key of that name all the time; when it reads a line it says how many
// milliseconds there were at the most from one write that was answered to the next.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A bare client: each write has a second, and then comes the next.
func writes(client *clientv3.Client, name string) {
	lines := make(chan bool)
	go func() {
		input := bufio.NewReader(os.Stdin)
		for {
			_, err := input.ReadString('\n')
			lines <- err == nil
			if err != nil {
				return
			}
		}
	}()
	write := func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := client.Put(ctx, name, "")
		return err == nil
	}
	for !write() {
	}
	fmt.Println("writes")
	last, longest := time.Now(), time.Duration(0)
	for {
		if write() {
			if gap := time.Since(last); gap > longest {
				longest = gap
			}
			last = time.Now()
		}
		select {
		case told := <-lines:
			if !told {
				return
			}
			fmt.Println(longest.Milliseconds())
			longest = 0
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func main() {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(os.Args[1], ","),
		DialTimeout: 5 * time.Second,
	})
	check(err)
	if len(os.Args) > 4 && os.Args[4] == "writes" {
		writes(client, os.Args[2])
		return
	}
	ttl, err := strconv.Atoi(os.Args[3])
	check(err)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	check(err)
	mutex := concurrency.NewMutex(session, os.Args[2])
	ctx := context.Background()
	if len(os.Args) > 4 {
		turns, err := strconv.Atoi(os.Args[4])
		check(err)
		start := time.Now()
		for i := 0; i < turns; i++ {
			check(mutex.Lock(ctx))
			check(mutex.Unlock(ctx))
		}
		fmt.Println(time.Since(start).Microseconds())
		return
	}
	fmt.Println("waits")
	check(mutex.Lock(ctx))
	fmt.Println("held")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		// Nobody is there any more who would tell.
		return
	}
	check(mutex.Unlock(ctx))
	fmt.Println("released")
}
