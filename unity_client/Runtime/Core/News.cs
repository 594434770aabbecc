using System.Collections.Generic;
using System.Threading;

namespace Everscene
{
    internal enum NewsKind { Welcome, Disconnected, Refused, Trouble, Receipt, Pong, Stats, Prompt, State, Scene, Input }

    /// <summary>Something that a network thread learnt and the polling thread has to hear.</summary>
    internal struct News
    {
        public NewsKind Kind;
        public string Text;
        public object Payload;
        public long Number;

        public News(NewsKind kind, string text = null, object payload = null, long number = 0)
        {
            Kind = kind;
            Text = text;
            Payload = payload;
            Number = number;
        }
    }

    /// <summary>The way from the network threads to the thread that polls. A frame makes no news, it only wakes.</summary>
    internal sealed class NewsQueue
    {
        readonly Queue<News> queue = new Queue<News>(64);
        readonly object frames = new object();
        long framesHeard;
        int waiting;

        public void Add(News news)
        {
            lock (queue)
            {
                queue.Enqueue(news);
                Volatile.Write(ref waiting, queue.Count);
            }
            Wake();
        }

        public bool TryTake(out News news)
        {
            news = new News();
            if (Volatile.Read(ref waiting) == 0) return false; // the usual case, every Update: no lock
            lock (queue)
            {
                if (queue.Count == 0) return false;
                news = queue.Dequeue();
                Volatile.Write(ref waiting, queue.Count);
                return true;
            }
        }

        public void Wake()
        {
            lock (frames)
            {
                framesHeard++;
                Monitor.PulseAll(frames);
            }
        }

        /// <summary>Waits until something was heard since <paramref name="seen"/>, and updates it.</summary>
        public bool Wait(ref long seen, int milliseconds)
        {
            lock (frames)
            {
                if (framesHeard == seen) Monitor.Wait(frames, milliseconds);
                bool heard = framesHeard != seen;
                seen = framesHeard;
                return heard;
            }
        }
    }
}
