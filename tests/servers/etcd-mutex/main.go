// A process that takes locks by Go's concurrency.Mutex, as services in Go do.
//
// `etcd-mutex ENDPOINTS NAME TTL` waits for the lock NAME, says "held", and releases it when it reads a
// line, or holds it until it is killed. With a fourth argument N it takes and releases the lock N times
// instead, and says how many microseconds that took.
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

func main() {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(os.Args[1], ","),
		DialTimeout: 5 * time.Second,
	})
	check(err)
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
