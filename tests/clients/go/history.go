package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	producers = 4
	inFlight  = 8
	// A producer pauses between its records, so that the history covers the whole time and stays small.
	pause = 2 * time.Millisecond
)

// outcome is what became of one value. Times are nanoseconds since the Unix epoch, counted monotonically from the start.
type outcome struct {
	Producer  int    `json:"producer"`
	Number    int    `json:"number"`
	Partition int32  `json:"partition"`
	Value     string `json:"value"`
	Invoked   int64  `json:"invoked"`
	Answered  int64  `json:"answered"`
	Offset    int64  `json:"offset"`
	Error     string `json:"error,omitempty"`
}

// workload sends values that are unique in the whole history, from several idempotent producers with acks=all, and
// prints the outcome of each. A record is given up, with an unknown outcome, after 30 s.
func workload(bootstrap, topic string, partitions int, duration time.Duration) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	var printing sync.Mutex
	start := time.Now()
	now := func() int64 { return start.UnixNano() + int64(time.Since(start)) }
	var all sync.WaitGroup
	for id := range producers {
		all.Go(func() {
			c := client(bootstrap, kgo.RecordDeliveryTimeout(30*time.Second), kgo.ProducerLinger(0),
				kgo.RequestRetries(1_000_000), kgo.MetadataMinAge(20*time.Millisecond),
				// The client's own backoff grows to seconds and would hide how long the cluster takes.
				kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
			defer c.Close()
			var pending sync.WaitGroup
			free := make(chan struct{}, inFlight)
			for number := 0; time.Since(start) < duration; number++ {
				free <- struct{}{}
				pending.Add(1)
				partition := int32((number + id) % partitions)
				o := outcome{Producer: id, Number: number, Partition: partition,
					Value: fmt.Sprintf("%d-%d", id, number), Invoked: now()}
				record := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(o.Value)}
				c.Produce(context.Background(), record, func(r *kgo.Record, err error) {
					o.Answered = now()
					if err == nil {
						o.Offset = r.Offset
					} else {
						o.Offset, o.Error = -1, err.Error()
					}
					encoded, err := json.Marshal(o)
					check(err)
					printing.Lock()
					fmt.Fprintf(out, "%s\n", encoded)
					printing.Unlock()
					<-free
					pending.Done()
				})
				time.Sleep(pause)
			}
			pending.Wait()
		})
	}
	all.Wait()
}

// dump reads each partition from its start to the given end offset (comma separated, one a partition).
func dump(bootstrap, topic string, partitions int, ends string) {
	left := make([]int64, partitions)
	start := map[int32]kgo.Offset{}
	open := 0
	for partition, end := range strings.Split(ends, ",") {
		n, err := strconv.ParseInt(end, 10, 64)
		check(err)
		left[partition] = n
		if n > 0 {
			start[int32(partition)] = kgo.NewOffset().AtStart()
			open++
		}
	}
	c := client(bootstrap, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for open > 0 {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			out.Flush()
			fail(fmt.Sprintf("%d partitions did not end within %s", open, deadline))
		}
		fetches.EachError(func(_ string, p int32, err error) { fmt.Fprintln(os.Stderr, "partition", p, err) })
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset < left[r.Partition] {
				fmt.Fprintf(out, "{\"partition\": %d, \"offset\": %d, \"value\": %q}\n", r.Partition, r.Offset, r.Value)
			}
			if r.Offset == left[r.Partition]-1 {
				open--
			}
		})
	}
}
