// A process that takes locks by Go's api.Lock, as services in Go do.
//
// `go-lock ADDRESS KEY TTL` waits for the lock KEY, says "held", and releases it when it reads a
// line, or holds it until it is killed. With a fourth argument N it takes and releases the lock N
// times instead, and says how many microseconds that took; with a fifth, so many callers do so,
// each N times.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

func main() {
	client, err := api.NewClient(&api.Config{Address: os.Args[1]})
	check(err)
	newLock := func() *api.Lock {
		lock, err := client.LockOpts(&api.LockOptions{
			Key:         os.Args[2],
			SessionTTL:  os.Args[3],
			SessionName: "go-lock",
		})
		check(err)
		return lock
	}
	if len(os.Args) > 4 {
		callers := 1
		if len(os.Args) > 5 {
			callers = number(os.Args[5])
		}
		fmt.Println(turns(client, number(os.Args[4]), callers).Microseconds())
		return
	}
	fmt.Println("waits")
	lock := newLock()
	lost, err := lock.Lock(nil)
	check(err)
	fmt.Println("held")
	go func() {
		<-lost
		fmt.Println("lost")
	}()
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		// Nobody is there any more who would tell.
		return
	}
	check(lock.Unlock())
	fmt.Println("released")
}

// turns lets callers take and release the lock so many times each, as the documents of api.Lock
// show it.
func turns(client *api.Client, turns int, callers int) time.Duration {
	var done sync.WaitGroup
	start := time.Now()
	for i := 0; i < callers; i++ {
		done.Add(1)
		go func() {
			defer done.Done()
			for j := 0; j < turns; j++ {
				lock, err := client.LockOpts(&api.LockOptions{Key: os.Args[2], SessionTTL: os.Args[3]})
				check(err)
				_, err = lock.Lock(nil)
				check(err)
				check(lock.Unlock())
			}
		}()
	}
	done.Wait()
	return time.Since(start)
}
