using System;
using System.Collections;
using System.Runtime.CompilerServices;

namespace Everscene
{
    public enum ReceiptState
    {
        /// <summary>On its way; the server has not answered yet.</summary>
        Sent,
        Accepted,
        /// <summary>A frame generated under it was published: <see cref="Receipt.Frame"/>.</summary>
        Applied,
        /// <summary>Another took its place before a frame was generated under it.</summary>
        Superseded,
        /// <summary>Not taken: <see cref="Receipt.Reason"/>.</summary>
        Rejected,
        /// <summary>The connection or the server went away before the answer: it may or may not have happened.</summary>
        Lost,
    }

    /// <summary>
    /// What became of one event, prompt or slots. It moves only inside <see cref="EversceneClient.Poll"/>, so on the thread
    /// that polls. Await it, yield it from a coroutine, or look at <see cref="State"/>; none of these throws.
    /// <code>
    /// Receipt storm = await stream.SendEvent("storm", new EventParam("intensity", 0.8));
    /// if (storm.IsApplied) Debug.Log(storm.Frame); else Debug.Log(storm.Reason);
    /// </code>
    /// </summary>
    public sealed class Receipt : IEnumerator
    {
        Action continuations;

        internal Receipt(long id, string name, long sentNs)
        {
            Id = id;
            Name = name;
            SentNs = sentNs;
        }

        /// <summary>The receipt of something that cannot be sent at all.</summary>
        public static Receipt Unsent(string name, string code, string reason)
        {
            var receipt = new Receipt(0, name, UnixClock.SystemNow);
            receipt.Advance(new ReceiptNews { State = ReceiptState.Rejected, Code = code, Reason = reason });
            return receipt;
        }

        public long Id { get; }
        /// <summary>Event's name, the prompt's text, or the slots as `slot: words, …`.</summary>
        public string Name { get; }
        /// <summary>This machine's Unix time of the call, ns.</summary>
        public long SentNs { get; }
        public ReceiptState State { get; private set; }
        /// <summary>The server's number for it; 0 before it is accepted.</summary>
        public long Order { get; private set; }
        /// <summary>Applied: first frame number that was generated under it.</summary>
        public long Frame { get; private set; }
        public long Chunk { get; private set; }
        /// <summary>Applied: from arrival at the server to the publishing of that frame, ms.</summary>
        public double LatencyMs { get; private set; }
        /// <summary>From the call to the moment that frame (or a later one) was shown here, ms; NaN until then.</summary>
        public double SeenMs { get; private set; } = double.NaN;
        /// <summary>Applied: the prompt in force from that frame on.</summary>
        public string Prompt { get; private set; } = "";
        /// <summary>Superseded: the <see cref="Order"/> of what took its place.</summary>
        public long By { get; private set; }
        /// <summary>Rejected: code of docs/protocol.md §8, or `not_connected`, `queue_full` from this client.</summary>
        public string Code { get; private set; } = "";
        /// <summary>A sentence for a person, when it was not applied.</summary>
        public string Reason { get; private set; } = "";

        public bool IsApplied => State == ReceiptState.Applied;
        public bool IsFinal => State >= ReceiptState.Applied;

        public Awaiter GetAwaiter() => new Awaiter(this);

        bool IEnumerator.MoveNext() => !IsFinal;
        object IEnumerator.Current => null;
        void IEnumerator.Reset() { }

        public override string ToString() =>
            Name + ": " + State.ToString().ToLowerInvariant()
            + (IsApplied ? " in frame " + Frame : Reason.Length > 0 ? " (" + Reason + ")" : "");

        /// <summary>Takes over a later state; false when there is nothing new in it.</summary>
        internal bool Advance(ReceiptNews news)
        {
            if (IsFinal || news.State <= State) return false;
            State = news.State;
            Message = null;
            if (news.Order > 0) Order = news.Order;
            Frame = news.Frame;
            Chunk = news.Chunk;
            LatencyMs = news.LatencyMs;
            Prompt = news.Prompt ?? "";
            By = news.By;
            Code = news.Code ?? "";
            Reason = State == ReceiptState.Superseded
                ? "another event or prompt took its place" : news.Reason ?? "";
            return true;
        }

        internal const int NotYet = -1;
        internal const int Unheard = 0;

        /// <summary>
        /// The session (<see cref="ControlLink"/>) in which it was last sent or named by the server; <see cref="NotYet"/>, or
        /// <see cref="Unheard"/> if the server did not take it because it did not know us. Set by the sending thread, then by
        /// the polling one.
        /// </summary>
        internal volatile int Session = NotYet;

        /// <summary>What may have to be sent again; null once the server has accepted it.</summary>
        internal Outgoing Message;

        internal void MarkSeen(long nowNs) => SeenMs = (nowNs - SentNs) / 1e6;

        /// <summary>Runs what awaits it. Apart from Advance, so that the callbacks of an event come first.</summary>
        internal void Resume()
        {
            if (!IsFinal) return;
            Action due = continuations;
            continuations = null;
            if (due != null) due();
        }

        /// <summary>Makes `await receipt` work; the code after it runs inside Poll.</summary>
        public struct Awaiter : INotifyCompletion
        {
            readonly Receipt receipt;

            internal Awaiter(Receipt receipt)
            {
                this.receipt = receipt;
            }

            public bool IsCompleted => receipt.IsFinal;
            public Receipt GetResult() => receipt;

            public void OnCompleted(Action continuation)
            {
                if (receipt.IsFinal) continuation();
                else receipt.continuations += continuation;
            }
        }
    }

    /// <summary>A receipt message as it came, or one that the client makes itself.</summary>
    internal sealed class ReceiptNews
    {
        public long Id;
        public ReceiptState State;
        public long Order;
        public long Frame;
        public long Chunk;
        public double LatencyMs;
        public string Prompt;
        public long By;
        public string Code;
        public string Reason;

        public static ReceiptNews Read(ref MsgPackReader reader, int pairs)
        {
            var news = new ReceiptNews();
            for (; pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("id")) news.Id = reader.Integer();
                else if (key.Is("state")) news.State = StateOf(reader.Text());
                else if (reader.TryNil()) continue;
                else if (key.Is("order")) news.Order = reader.Integer();
                else if (key.Is("frame")) news.Frame = reader.Integer();
                else if (key.Is("chunk")) news.Chunk = reader.Integer();
                else if (key.Is("latency_ms")) news.LatencyMs = reader.Number();
                else if (key.Is("prompt")) news.Prompt = reader.Text();
                else if (key.Is("by")) news.By = reader.Integer();
                else if (key.Is("code")) news.Code = reader.Text();
                else if (key.Is("reason")) news.Reason = reader.Text();
                else reader.Skip();
            }
            if (news.Id < 1 || news.State == ReceiptState.Sent)
                throw new MessageException("a receipt without an id or a state");
            return news;
        }

        static ReceiptState StateOf(string word)
        {
            switch (word)
            {
                case "accepted": return ReceiptState.Accepted;
                case "applied": return ReceiptState.Applied;
                case "superseded": return ReceiptState.Superseded;
                case "rejected": return ReceiptState.Rejected;
                default: throw new MessageException("no such state of a receipt: '" + word + "'");
            }
        }
    }
}
