using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Threading;

namespace Everscene
{
    /// <summary>A message on its way out.</summary>
    internal sealed class Outgoing
    {
        public byte[] Bytes;
        public Receipt Receipt;
        public long BornMs;
    }

    /// <summary>
    /// The control socket: one thread connects, says hello, listens, and begins again when the connection is lost; one
    /// sends what is posted, once the server has welcomed us. Neither touches anything of the game. A session is one
    /// server on one connection: they are counted, and what was sent in an earlier one may not have arrived.
    /// </summary>
    internal sealed class ControlLink
    {
        const int FirstPauseMs = 100;
        const int LongestPauseMs = 2000;
        const int RefusedPauseMs = 5000;
        const int HelloMs = 5000;
        const int HardLimit = 16 * 1024 * 1024;
        const int LongestQueue = 1024;

        readonly Endpoint endpoint;
        readonly string token;
        readonly Func<byte[]> hello;
        readonly NewsQueue news;
        readonly UnixClock clock;
        readonly Func<Welcome, string> onWelcome;
        readonly ManualResetEvent stop = new ManualResetEvent(false);
        readonly Queue<Outgoing> queue = new Queue<Outgoing>();
        readonly object gate = new object(); // the queue and the connection
        readonly Thread listener;
        readonly Thread sender;
        ZmtpConnection connection;
        bool welcomed;
        bool helloWanted;
        bool stopping;
        bool refused;
        int session;
        long epoch;
        long helloAtMs = -1;

        public ControlLink(
            Endpoint endpoint, string token, Func<byte[]> hello, NewsQueue news, UnixClock clock,
            Func<Welcome, string> onWelcome)
        {
            this.endpoint = endpoint;
            this.token = token;
            this.hello = hello;
            this.news = news;
            this.clock = clock;
            this.onWelcome = onWelcome;
            listener = new Thread(Listen) { IsBackground = true, Name = "Everscene control" };
            sender = new Thread(SendQueued) { IsBackground = true, Name = "Everscene sender" };
        }

        public void Start()
        {
            listener.Start();
            sender.Start();
        }

        /// <summary>Queues a message; false when far too many wait already for another event or prompt.</summary>
        public bool Post(Outgoing message)
        {
            lock (gate)
            {
                bool isNewInput = message.Receipt != null && message.Receipt.Session == Receipt.NotYet;
                if (isNewInput && queue.Count >= LongestQueue) return false;
                queue.Enqueue(message);
                Monitor.Pulse(gate);
                return true;
            }
        }

        /// <summary>Takes back the messages that have waited longer than <paramref name="milliseconds"/> for a connection.</summary>
        public void TakeExpired(int milliseconds, List<Outgoing> expired)
        {
            lock (gate)
                while (queue.Count > 0 && NowMs - queue.Peek().BornMs > milliseconds)
                    expired.Add(queue.Dequeue());
        }

        /// <summary>
        /// Has hello said again on the present connection: the ring is gone, or a new server answers. From any thread; the
        /// sender says it, at most once a second.
        /// </summary>
        public void RequestHello()
        {
            lock (gate)
            {
                if (connection == null || helloAtMs >= 0 && NowMs - helloAtMs < 1000) return;
                helloAtMs = NowMs;
                welcomed = false;
                helloWanted = true;
                Monitor.PulseAll(gate);
            }
        }

        /// <summary>Ends a connection on which hello was not answered in time.</summary>
        public void CheckHello()
        {
            lock (gate)
            {
                if (connection == null || welcomed || helloAtMs < 0 || NowMs - helloAtMs < HelloMs) return;
                news.Add(new News(NewsKind.Trouble, "the server at " + endpoint + " does not answer hello"));
                connection.Abort();
            }
        }

        /// <summary>Says bye if it can, and ends both threads within <paramref name="milliseconds"/>.</summary>
        public void Stop(byte[] bye, int milliseconds)
        {
            long until = NowMs + milliseconds;
            lock (gate)
            {
                stopping = true;
                queue.Clear();
                if (welcomed) queue.Enqueue(new Outgoing { Bytes = bye });
                Monitor.PulseAll(gate);
            }
            stop.Set();
            Join(sender, Math.Min(until, NowMs + milliseconds / 2));
            lock (gate)
                if (connection != null) connection.Abort();
            Join(sender, until);
            Join(listener, until);
        }

        internal static long NowMs => Stopwatch.GetTimestamp() * 1000 / Stopwatch.Frequency;

        internal static void Join(Thread thread, long untilMs)
        {
            if (thread.IsAlive) thread.Join((int)Math.Max(0, untilMs - NowMs));
        }

        bool Stopping { get { lock (gate) return stopping; } }

        void Listen()
        {
            int pause = FirstPauseMs;
            while (!Stopping)
            {
                refused = false;
                ConnectionException end = Converse(out bool wasWelcomed);
                if (Stopping) return;
                news.Add(new News(wasWelcomed ? NewsKind.Disconnected : NewsKind.Trouble, end.Message));
                if (end.Fatal)
                {
                    news.Add(new News(NewsKind.Refused, end.Message));
                    return;
                }
                if (wasWelcomed) pause = FirstPauseMs;
                if (stop.WaitOne(refused ? RefusedPauseMs : pause)) return;
                pause = Math.Min(pause * 2, LongestPauseMs);
            }
        }

        // One connection from beginning to end; says how it ended.
        ConnectionException Converse(out bool wasWelcomed)
        {
            wasWelcomed = false;
            ZmtpConnection opened = null;
            try
            {
                opened = ZmtpConnection.Open(endpoint, "DEALER", token, stop);
                lock (gate)
                {
                    if (stopping) return new ConnectionException("stopped");
                    connection = opened;
                    epoch = 0;
                    helloAtMs = NowMs;
                    helloWanted = true;
                    Monitor.PulseAll(gate);
                }
                return Hear(opened, ref wasWelcomed);
            }
            catch (ConnectionException failure)
            {
                return failure;
            }
            finally
            {
                lock (gate)
                {
                    connection = null;
                    welcomed = false;
                    helloWanted = false;
                    helloAtMs = -1;
                }
                if (opened != null) opened.Dispose();
            }
        }

        // Returns when the server has refused us, with its words; every other end is thrown.
        ConnectionException Hear(ZmtpConnection from, ref bool wasWelcomed)
        {
            var buffer = new byte[64 * 1024];
            while (true)
            {
                int length = from.Receive(ref buffer, HardLimit, out bool more);
                while (more) from.Receive(ref buffer, HardLimit, out more); // against the protocol: the last part counts
                try
                {
                    var reader = new MsgPackReader(buffer, 0, length);
                    ConnectionException refusal = Dispatch(ref reader);
                    refused = refusal != null;
                    if (refused) return refusal;
                    lock (gate) wasWelcomed |= welcomed;
                }
                catch (MessageException broken)
                {
                    news.Add(new News(NewsKind.Trouble, "a message that breaks the protocol: " + broken.Message));
                }
            }
        }

        // Null unless the message is `refused`.
        ConnectionException Dispatch(ref MsgPackReader reader)
        {
            string type = TypeOf(reader);
            int pairs = reader.Map();
            switch (type)
            {
                case "welcome": Enter(Welcome.Read(ref reader, pairs)); return null;
                case "receipt": news.Add(new News(NewsKind.Receipt, null, ReceiptNews.Read(ref reader, pairs))); return null;
                case "pong": HearPong(ref reader, pairs); return null;
                case "stats": news.Add(new News(NewsKind.Stats, null, ServerStats.Read(ref reader, pairs))); return null;
                case "error": HearError(ref reader, pairs); return null;
                case "refused": return HearRefusal(ref reader, pairs);
                default: return null; // of a later minor version, or an answer to what we never ask
            }
        }

        // The map's "type", wherever it stands in it. The reader is a copy, so the caller's stays at the beginning.
        static string TypeOf(MsgPackReader reader)
        {
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                if (reader.Key().Is("type")) return reader.Text();
                reader.Skip();
            }
            throw new MessageException("a message without a type");
        }

        void Enter(Welcome welcome)
        {
            if (welcome.Major != Messages.Major)
                throw new MessageException("a welcome of protocol " + welcome.Major + "." + welcome.Minor);
            string problem = onWelcome(welcome);
            lock (gate)
            {
                if (welcome.Epoch != epoch) session++;
                epoch = welcome.Epoch;
                news.Add(new News(NewsKind.Welcome, null, welcome, session));
                if (problem != null) news.Add(new News(NewsKind.Trouble, problem));
                welcomed = true;
                Monitor.PulseAll(gate);
            }
        }

        void HearPong(ref MsgPackReader reader, int pairs)
        {
            long received = UnixClock.SystemNow, sent = 0, server = 0, id = 0;
            for (; pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("client_ns") && !reader.TryNil()) sent = reader.Integer();
                else if (key.Is("server_ns")) server = reader.Integer();
                else if (key.Is("id") && !reader.TryNil()) id = reader.Integer();
                else reader.Skip();
            }
            if (sent > 0 && server > 0) clock.Observe(sent, received, server);
            news.Add(new News(NewsKind.Pong, null, null, id));
        }

        void HearError(ref MsgPackReader reader, int pairs)
        {
            var heard = new ReceiptNews { State = ReceiptState.Rejected, Code = "", Reason = "" };
            for (; pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("id")) heard.Id = reader.TryNil() ? 0 : reader.Integer();
                else if (key.Is("code")) heard.Code = reader.Text();
                else if (key.Is("reason")) heard.Reason = reader.Text();
                else reader.Skip();
            }
            if (heard.Id > 0) news.Add(new News(NewsKind.Receipt, null, heard));
            else news.Add(new News(NewsKind.Trouble, heard.Reason));
            if (heard.Code == "no_hello") RequestHello();
        }

        static ConnectionException HearRefusal(ref MsgPackReader reader, int pairs)
        {
            string code = "", reason = "";
            for (; pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("code")) code = reader.Text();
                else if (key.Is("reason")) reason = reader.Text();
                else reader.Skip();
            }
            if (reason.Length == 0) reason = "the server refused us: " + code;
            return new ConnectionException(reason, code != "busy"); // there may be room later; all else stays as it is
        }

        void SendQueued()
        {
            Outgoing next;
            ZmtpConnection to;
            while (TakeNext(out next, out to))
            {
                try
                {
                    to.Send(next.Bytes, next.Bytes.Length);
                }
                catch (ConnectionException)
                {
                    // The listener notices too, and connects again. What was under way is then sent again.
                }
            }
        }

        // Waits for something that can be sent now; false when there is nothing more to come.
        bool TakeNext(out Outgoing next, out ZmtpConnection to)
        {
            lock (gate)
            {
                while (!stopping && !helloWanted && (queue.Count == 0 || !welcomed)) Monitor.Wait(gate);
                to = connection;
                next = null;
                if (helloWanted && !stopping)
                {
                    helloWanted = false;
                    next = new Outgoing { Bytes = hello() };
                    return true;
                }
                if (queue.Count == 0 || !welcomed) return false;
                next = queue.Dequeue();
                if (next.Receipt != null) next.Receipt.Session = session;
                return true;
            }
        }
    }
}
