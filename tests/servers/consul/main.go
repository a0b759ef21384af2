// Consul's agent and its command `consul lock`, without the rest of the program.
//
// Consul 1.12 is the last version under a free licence whose modules can all be had.
package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/hashicorp/consul/command/agent"
	"github.com/hashicorp/consul/command/cli"
	"github.com/hashicorp/consul/command/lock"
	mcli "github.com/mitchellh/cli"
)

func main() {
	ui := &cli.BasicUI{BasicUi: mcli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}}
	if len(os.Args) > 1 {
		switch arguments := os.Args[2:]; os.Args[1] {
		case "agent":
			os.Exit(agent.New(ui).Run(arguments))
		case "lock":
			os.Exit(lock.New(ui, interrupted()).Run(arguments))
		}
	}
	fmt.Fprintln(os.Stderr, "usage: consul agent|lock ARGUMENTS")
	os.Exit(2)
}

// interrupted tells of each interrupt, which is how `consul lock` is told to release.
func interrupted() <-chan struct{} {
	told := make(chan struct{})
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt)
	go func() {
		for range signals {
			told <- struct{}{}
		}
	}()
	return told
}
