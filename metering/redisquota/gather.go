package redisquota

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// pipeliner is a client that can gather commands.
type pipeliner interface {
	AsyncAutoPipelineWithOptions(config *redis.AutoPipelineOptions) (*redis.AutoPipeliner, error)
}

// gathered is how many questions the limiter is good for at once if it gathers
// them.
const gathered = 128

// AtOnce is how many questions a Meter may ask at once.
func (l *Limiter) AtOnce() int {
	if l.asks != l.client {
		return gathered
	}
	return 1
}

// gatherer sends commands one by one as long as few are under way, and those
// beyond together: one write and one read for many. Alone, a command would wait
// for nothing and pay for the gathering.
type gatherer struct {
	Client
	above     int64
	pipelines *redis.AutoPipeliner
	underWay  atomic.Int64
}

func newGatherer(client Client, above int) (*gatherer, error) {
	if above < 0 {
		return nil, fmt.Errorf("PipelineAbove: %d is negative", above)
	}
	p, ok := client.(pipeliner)
	if !ok {
		return nil, errors.New("PipelineAbove: the client can't gather commands")
	}
	pipelines, err := p.AsyncAutoPipelineWithOptions(nil)
	if err != nil {
		return nil, fmt.Errorf("PipelineAbove: %w", err)
	}
	return &gatherer{Client: client, above: int64(above), pipelines: pipelines}, nil
}

// Process is that of Client. A command whose context ends is not waited for any
// longer, and goes on: it must not be read any more.
func (g *gatherer) Process(ctx context.Context, cmd redis.Cmder) error {
	defer g.underWay.Add(-1)
	if g.underWay.Add(1) <= g.above {
		return g.Client.Process(ctx, cmd)
	}
	return g.pipelines.Submit(ctx, cmd).WaitContext(ctx)
}
