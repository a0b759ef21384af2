// A process that takes a lock on several Redis servers by redsync, as services in Go do.
//
// `redsync SERVERS NAME TTL_MS` reads commands by the line: `lock` tries once, and says "held" or
// "taken"; `unlock` says "released" or "lost". It ends with its input.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-redsync/redsync/v4"
	sync "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
)

func main() {
	var pools []sync.Pool
	for _, server := range strings.Split(os.Args[1], ",") {
		pools = append(pools, goredis.NewPool(redis.NewClient(&redis.Options{Addr: server})))
	}
	ttl, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	expiry := redsync.WithExpiry(time.Duration(ttl) * time.Millisecond)
	mutex := redsync.New(pools...).NewMutex(os.Args[2], expiry, redsync.WithTries(1))
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		switch commands.Text() {
		case "lock":
			if err := mutex.Lock(); err != nil {
				fmt.Println("taken")
			} else {
				fmt.Println("held")
			}
		case "unlock":
			if ok, err := mutex.Unlock(); err != nil || !ok {
				fmt.Println("lost")
			} else {
				fmt.Println("released")
			}
		default:
			log.Fatalf("no command: %q", commands.Text())
		}
	}
}
