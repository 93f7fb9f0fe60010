// A client of a logstore cluster, written from docs/reference/protocol.md alone.
//
// ./generate.sh, then: go build -o logstore-go .
//
//	logstore-go ADDRESS LOG append < lines of "key value"   prints the shard and offset of each
//	logstore-go ADDRESS LOG read KEY                        prints the key's values, oldest first
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	pb "logstore-example/logstore/proto/v1"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/zeebo/xxh3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

const callTimeout, giveUpAfter, pause = 5 * time.Second, time.Minute, 50 * time.Millisecond

// lane is this producer's appends to one shard; appended is the end of what was acked there.
type lane struct{ producer, sequence, appended uint64 }

type client struct {
	seed   string
	routes *pb.LogRoutes
	conns  map[string]*grpc.ClientConn
	lanes  map[string]*lane
}

// to is the connection to an address; it connects, and connects again, by itself.
func (c *client) to(address string) *grpc.ClientConn {
	if c.conns[address] == nil {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
		if err != nil {
			panic(err)
		}
		c.conns[address] = conn
	}
	return c.conns[address]
}

// refresh takes the newest map from any party that answers; a map never goes back.
func (c *client) refresh() (err error) {
	parties := []string{c.seed}
	for _, s := range c.routes.Shards {
		for _, address := range s.Addresses {
			parties = append(parties, address)
		}
	}
	for _, address := range parties {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		var found *pb.LogRoutes
		found, err = pb.NewRouteServiceClient(c.to(address)).Routes(ctx, &pb.RoutesRequest{Log: c.routes.Log})
		cancel()
		if err == nil {
			if found.MapVersion > c.routes.MapVersion {
				c.routes = found
			}
			return nil
		}
	}
	return err
}

// holds says whether a shard's range of routing keys has the key.
func (c *client) holds(s *pb.ShardRoute, key []byte) bool {
	if c.routes.Partitioner == "hash" {
		key = append(binary.BigEndian.AppendUint64(nil, xxh3.Hash(key)), key...)
	}
	return bytes.Compare(s.Range.Start, key) <= 0 && (s.Range.End == nil || bytes.Compare(key, s.Range.End) < 0)
}

func (c *client) shard(fits func(*pb.ShardRoute) bool) *pb.ShardRoute {
	for _, s := range c.routes.Shards {
		if fits(s) {
			return s
		}
	}
	return nil
}

func (c *client) named(id string) *pb.ShardRoute {
	return c.shard(func(s *pb.ShardRoute) bool { return s.Shard == id })
}

// again waits and refreshes when the call may be made again; else it returns the error.
func (c *client) again(err error, trailer metadata.MD, deadline time.Time) (code string, _ error) {
	detail := &pb.ErrorDetail{Retriable: true} // without one: the transport failed
	if found := trailer.Get("logstore-error-bin"); len(found) > 0 {
		proto.Unmarshal([]byte(found[0]), detail)
	}
	if !(detail.Retriable || detail.RefreshRoute) || time.Now().After(deadline) {
		return detail.Code, fmt.Errorf("%s: %w", detail.Code, err)
	}
	time.Sleep(max(pause, time.Duration(detail.RetryAfterMs)*time.Millisecond))
	c.refresh()
	return detail.Code, nil
}

// append stores the record once, however often it is sent: under one producer and sequence, at one
// shard, until that shard has decided. "sealed" decides that it is not stored: a successor gets it.
func (c *client) append(record *pb.Record) (*pb.AppendResponse, error) {
	deadline := time.Now().Add(giveUpAfter)
	for {
		s := c.shard(func(s *pb.ShardRoute) bool { return s.Status != "sealed" && c.holds(s, record.Key) })
		l := c.lanes[s.Shard]
		if l == nil {
			l = &lane{producer: rand.Uint64() | 1}
			c.lanes[s.Shard] = l
		}
		for code := ""; code != "sealed"; s = c.named(s.Shard) {
			var trailer metadata.MD
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			answer, err := pb.NewLogServiceClient(c.to(s.Addresses[s.Primary])).Append(ctx, &pb.AppendRequest{
				Log: c.routes.Log, Shard: &s.Shard, Records: []*pb.Record{record},
				ProducerId: l.producer, Sequence: l.sequence + 1,
			}, grpc.Trailer(&trailer))
			cancel()
			if err == nil {
				l.sequence++
				l.appended = answer.BaseOffset + uint64(answer.Count)
				return answer, nil
			}
			if code, err = c.again(err, trailer, deadline); err != nil {
				return nil, err
			}
		}
	}
}

// read gives all values of a key: of each shard that ever held it, parents before their successors.
func (c *client) read(key []byte, give func(value []byte)) error {
	done := map[string]bool{}
	for {
		next := c.shard(func(s *pb.ShardRoute) bool {
			for _, parent := range s.Predecessors {
				if p := c.named(parent); p != nil && c.holds(p, key) && !done[parent] {
					return false
				}
			}
			return !done[s.Shard] && c.holds(s, key)
		})
		if next == nil {
			return nil
		}
		if err := c.readShard(next, key, give); err != nil {
			return err
		}
		done[next.Shard] = true
	}
}

// readShard reads to the shard's end; when it was sealed meanwhile, the map then names what follows.
func (c *client) readShard(s *pb.ShardRoute, key []byte, give func(value []byte)) error {
	request := &pb.ReadRequest{Shard: s.Shard, Key: key, IpcStream: true}
	if l := c.lanes[s.Shard]; l != nil {
		request.MinHighWatermark = l.appended
	}
	for deadline := time.Now().Add(giveUpAfter); ; s = c.named(s.Shard) {
		request.MinHighWatermark = max(request.MinHighWatermark, s.GetSealedEnd())
		sealed, trailer, err := c.readOn(s, request, give)
		for err == nil && sealed && c.named(s.Shard).SealedEnd == nil {
			time.Sleep(pause)
			err = c.refresh()
		}
		if err == nil {
			return nil
		}
		if _, err = c.again(err, trailer, deadline); err != nil {
			return err
		}
	}
}

// readOn makes one call and moves the request to where the next one goes on.
func (c *client) readOn(s *pb.ShardRoute, request *pb.ReadRequest, give func([]byte)) (sealed bool, _ metadata.MD, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	call, err := pb.NewLogServiceClient(c.to(s.Addresses[s.Primary])).Read(ctx, request)
	for err == nil {
		var page *pb.ReadResponse
		if page, err = call.Recv(); err == nil && page.Count > 0 {
			err = values(page.Payload, give)
		}
		if err == nil {
			request.StartOffset, sealed = &page.NextOffset, page.Sealed
		}
	}
	if err == io.EOF {
		return sealed, nil, nil
	}
	return sealed, call.Trailer(), err
}

// values opens a complete Arrow IPC stream.
func values(payload []byte, give func([]byte)) error {
	reader, err := ipc.NewReader(bytes.NewReader(payload))
	if err != nil {
		return err
	}
	defer reader.Release()
	for reader.Next() {
		batch := reader.RecordBatch()
		column := batch.Column(batch.Schema().FieldIndices("value")[0]).(*array.Binary)
		for row := range column.Len() {
			give(column.Value(row))
		}
	}
	return reader.Err()
}

func run(arguments []string) error {
	c := &client{arguments[0], &pb.LogRoutes{Log: arguments[1]}, map[string]*grpc.ClientConn{}, map[string]*lane{}}
	if err := c.refresh(); err != nil {
		return err
	}
	if arguments[2] == "read" {
		return c.read([]byte(arguments[3]), func(value []byte) { fmt.Printf("%s\n", value) })
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), " ")
		answer, err := c.append(&pb.Record{Key: []byte(key), Value: []byte(value)})
		if err != nil {
			return err
		}
		fmt.Println(answer.Shard, answer.BaseOffset)
	}
	return nil
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: logstore-go ADDRESS LOG append | logstore-go ADDRESS LOG read KEY")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
